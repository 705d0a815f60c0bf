package images

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/gantryhq/gantry/internal/attest"
)

const (
	patience = 30 * time.Second // of one question
	atOnce   = 8                // images that are read at the same time
	maxList  = 1000             // images in one answer
)

// List is the answer about all images.
type List struct {
	Registry string  `json:"registry"` // host:port, as image names start
	Images   []Image `json:"images"`
	// Complete is false when there are more than an answer may have.
	Complete bool `json:"complete"`
}

// may is whether somebody may pull from a repository.
func (s *Service) may(ctx context.Context, u user.Info, repository string) (bool, error) {
	namespace, rest := namespaceOf(repository)
	return s.reviews.May(ctx, u, authorizationv1.ResourceAttributes{Group: "gantry.dev", Resource: "repositories", Verb: "get", Namespace: namespace, Name: rest})
}

// serveList answers GET /images/api/v1/images[?namespace=NAMESPACE].
func (s *Service) serveList(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	u, ok := s.cfg.User(r)
	if !ok {
		refuse(w, http.StatusUnauthorized, errors.New("the request has no user"))
		return
	}
	tagged, complete, err := s.tagged(ctx, u)
	if err != nil {
		refuse(w, http.StatusBadGateway, fmt.Errorf("list the registry: %w", err))
		return
	}
	described, err := s.describeAll(ctx, tagged)
	if err != nil {
		refuse(w, http.StatusBadGateway, fmt.Errorf("read the registry: %w", err))
		return
	}
	out := List{Registry: s.cfg.Registry, Images: []Image{}, Complete: complete}
	for _, d := range described {
		if namespace, _ := namespaceOf(d.image.Repository); r.URL.Query().Has("namespace") && namespace != r.URL.Query().Get("namespace") {
			continue
		}
		i := d.image.Image
		i.Tags, i.Base = tagged[key(d)], baseOf(d, described, tagged)
		out.Images = append(out.Images, i)
	}
	answer(w, out)
}

// serveOne answers GET /images/api/v1/image?name=REPOSITORY@DIGEST; a tag instead of the digest will do.
func (s *Service) serveOne(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	u, ok := s.cfg.User(r)
	if !ok {
		refuse(w, http.StatusUnauthorized, errors.New("the request has no user"))
		return
	}
	wanted := strings.TrimPrefix(r.URL.Query().Get("name"), s.cfg.Registry+"/")
	ref, err := name.ParseReference(s.cfg.Registry+"/"+wanted, name.Insecure)
	if err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("name=%q is no image: name one as shop/cart:1 or shop/cart@sha256:...", wanted))
		return
	}
	repository := ref.Context().RepositoryStr()
	if allowed, err := s.may(ctx, u, repository); err != nil || !allowed {
		refuse(w, http.StatusForbidden, cmp.Or(err, fmt.Errorf("%s may not pull %s: that needs a role with the verb get on repositories.gantry.dev, as view has it", u.GetName(), repository)))
		return
	}
	digest, err := attest.Resolve(ctx, ref.Name(), s.options(ctx)...)
	if gone(err) {
		refuse(w, http.StatusNotFound, fmt.Errorf("the registry has no image %s: it was removed, or never pushed", wanted))
		return
	}
	var d *describe
	if err == nil {
		digest, _ = name.NewDigest(digest.Name(), name.Insecure) // one that was just resolved
		d, err = s.look(ctx, digest, true)
	}
	if errors.Is(err, errNoImage) {
		refuse(w, http.StatusNotFound, fmt.Errorf("%s is no image for this machine", wanted))
		return
	}
	if err != nil {
		refuse(w, http.StatusBadGateway, fmt.Errorf("read the registry: %w", err))
		return
	}
	out := d.image
	// What it is built on and what is built on it is worth less than the rest: without it there is an answer too.
	if tagged, _, err := s.tagged(ctx, u); err == nil {
		if described, err := s.describeAll(ctx, tagged); err == nil {
			out.Tags, out.Base = tagged[key(d)], baseOf(d, described, tagged)
			out.DerivedFor = derivedOf(d, described, tagged)
		}
	}
	answer(w, out)
}

func key(d *describe) string { return d.image.Repository + "@" + d.image.Digest }

// tagged are the tags of what somebody may pull, by repository@digest.
func (s *Service) tagged(ctx context.Context, u user.Info) (found map[string][]string, complete bool, err error) {
	registry, err := name.NewRegistry(s.cfg.Registry, name.Insecure)
	if err != nil {
		return nil, false, err
	}
	repositories, err := remote.Catalog(ctx, registry, s.options(ctx)...)
	if err != nil {
		return nil, false, err
	}
	var mu sync.Mutex
	found, complete = map[string][]string{}, true
	reading, ctx := errgroup.WithContext(ctx)
	reading.SetLimit(atOnce)
	for _, path := range repositories {
		allowed, err := s.may(ctx, u, path)
		if err != nil {
			return nil, false, errors.Join(err, reading.Wait())
		}
		if !allowed {
			continue
		}
		reading.Go(func() error {
			tags, err := s.tags(ctx, path)
			mu.Lock()
			defer mu.Unlock()
			for digest, names := range tags {
				if complete = complete && len(found) < maxList; complete {
					found[path+"@"+digest] = names
				}
			}
			return err
		})
	}
	return found, complete, reading.Wait()
}

// tags are those of one repository, by digest.
func (s *Service) tags(ctx context.Context, path string) (map[string][]string, error) {
	repository, err := s.repository(path)
	if err != nil {
		return nil, err
	}
	tags, err := remote.List(repository, s.options(ctx)...)
	if gone(err) {
		return nil, nil // deleted meanwhile
	}
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, tag := range tags {
		if attest.IsClaimTag(tag) {
			continue
		}
		d, err := remote.Head(repository.Tag(tag), s.options(ctx)...)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[d.Digest.String()] = append(out[d.Digest.String()], tag)
	}
	return out, nil
}

// describeAll looks at images, in the order of their names. What is no image is left out.
func (s *Service) describeAll(ctx context.Context, tagged map[string][]string) ([]*describe, error) {
	var mu sync.Mutex
	var out []*describe
	reading, ctx := errgroup.WithContext(ctx)
	reading.SetLimit(atOnce)
	for key := range tagged {
		reading.Go(func() error {
			ref, err := name.NewDigest(s.cfg.Registry+"/"+key, name.Insecure)
			if err != nil {
				return err
			}
			d, err := s.look(ctx, ref, false)
			if errors.Is(err, errNoImage) || gone(err) {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, d)
			return nil
		})
	}
	err := reading.Wait()
	slices.SortFunc(out, func(a, b *describe) int { return cmp.Compare(key(a), key(b)) })
	return out, err
}

// baseOf finds the image on which another one is built: of those whose layers are its first ones the
// one with the most.
func baseOf(d *describe, among []*describe, tagged map[string][]string) *Base {
	var best *describe
	for _, b := range among {
		if !builtOn(d, b) || best != nil && len(b.diffIDs) <= len(best.diffIDs) {
			continue
		}
		best = b
	}
	if best == nil {
		return nil
	}
	return &Base{best.image.Repository, first(tagged[key(best)]), best.image.Digest, len(best.diffIDs)}
}

// derivedOf are the images that are built on one.
func derivedOf(d *describe, among []*describe, tagged map[string][]string) (out []Base) {
	for _, o := range among {
		if builtOn(o, d) {
			out = append(out, Base{o.image.Repository, first(tagged[key(o)]), o.image.Digest, len(o.diffIDs) - len(d.diffIDs)})
		}
	}
	return out
}

func builtOn(d, base *describe) bool {
	n := len(base.diffIDs)
	return n > 0 && n < len(d.diffIDs) && slices.Equal(d.diffIDs[:n], base.diffIDs)
}

func first(tags []string) string {
	if len(tags) == 0 {
		return ""
	}
	return slices.Min(tags)
}

func answer(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body) // the reader may leave
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": err.Error()}) // the reader may leave
}
