package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantryhq/gantry/services/registry/storage"
)

// maxPage is how many entries one answer lists at most.
const maxPage = 1000

// page reads the query's n and last.
func (c *call) page() (n int, last string, err error) {
	q := c.req.URL.Query()
	n, last = maxPage, q.Get("last")
	if text := q.Get("n"); text != "" {
		asked, err := strconv.Atoi(text)
		if err != nil || asked < 0 {
			return 0, "", &refusal{status: http.StatusBadRequest, code: "PAGINATION_NUMBER_INVALID", message: fmt.Sprintf("n=%s is not a number of entries", text)}
		}
		n = min(asked, maxPage)
	}
	return n, last, nil
}

// entriesAfter returns the n entries after last, of sorted ones, and whether there are more.
func entriesAfter(all []string, n int, last string) (page []string, more bool) {
	if last != "" {
		at, found := slices.BinarySearch(all, last)
		if found {
			at++
		}
		all = all[at:]
	}
	if n < len(all) {
		return all[:n], n > 0
	}
	return all, false
}

// next says where the following page is.
func (c *call) next(n int, last string) {
	q := c.req.URL.Query()
	q.Set("n", strconv.Itoa(n))
	q.Set("last", last)
	u := url.URL{Path: c.req.URL.Path, RawQuery: q.Encode()}
	c.w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, u.String()))
}

func (c *call) answer(mediaType string, v any) error {
	c.w.Header().Set("Content-Type", mediaType)
	_ = json.NewEncoder(c.w).Encode(v) // a client that is gone needs no answer
	return nil
}

// catalog lists the repositories that the caller may list.
func (c *call) catalog() error {
	n, last, err := c.page()
	if err != nil {
		return err
	}
	ctx := c.req.Context()
	everything := c.caller.May(ctx, List, "") == nil
	names := []string{}
	err = c.store.Repositories(func(name string) error {
		if name > last && c.store.HasManifests(name) && (everything || c.caller.May(ctx, List, name) == nil) {
			names = append(names, name)
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	slices.Sort(names)
	page, more := entriesAfter(names, n, last)
	if more {
		c.next(n, page[len(page)-1])
	}
	return c.answer("application/json", map[string][]string{"repositories": page})
}

func (c *call) tags() error {
	n, last, err := c.page()
	if err != nil {
		return err
	}
	if err := c.may(Pull); err != nil {
		return err
	}
	all, err := c.store.Tags(c.name)
	if err != nil {
		return err
	}
	page, more := entriesAfter(all, n, last)
	if more {
		c.next(n, page[len(page)-1])
	}
	return c.answer("application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{c.name, page})
}

// referrers lists what says something about a manifest, which need not be here.
func (c *call) referrers() error {
	subject, err := storage.ParseDigest(c.reference)
	if err != nil {
		return err
	}
	n, last, err := c.page()
	if err != nil {
		return err
	}
	if err := c.may(Pull); err != nil {
		return err
	}
	all, err := c.store.Referrers(c.name, subject)
	if err != nil {
		return err
	}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	want := c.req.URL.Query().Get("artifactType")
	if want != "" {
		c.w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	for _, d := range all {
		if d.Digest.String() <= last || want != "" && d.ArtifactType != want {
			continue
		}
		if len(index.Manifests) == n {
			if n == 0 {
				break
			}
			c.next(n, index.Manifests[n-1].Digest.String())
			break
		}
		index.Manifests = append(index.Manifests, d)
	}
	return c.answer(v1.MediaTypeImageIndex, index)
}
