package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/gantryhq/gantry/services/registry/storage"
)

// maxManifest is the size that the specification asks registries to accept at least.
const maxManifest = 4 << 20

// resolve tells which manifest the request's reference means.
func (c *call) resolve() (digest.Digest, error) {
	if strings.Contains(c.reference, ":") {
		return storage.ParseDigest(c.reference)
	}
	if err := storage.CheckTag(c.reference); err != nil {
		return "", err
	}
	return c.store.Tag(c.name, c.reference)
}

func (c *call) getManifest() error {
	if err := c.may(Pull); err != nil {
		return err
	}
	if c.holds.Upstream != nil {
		if err := c.ensureManifest(); err != nil {
			return err
		}
	}
	d, err := c.resolve()
	if err != nil {
		return err
	}
	raw, mediaType, err := c.store.ReadManifest(c.name, d)
	if err != nil {
		return err
	}
	c.describe(d, mediaType)
	if match := c.req.Header.Get("If-None-Match"); match != "" && strings.Contains(match, d.String()) {
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	c.w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	if c.req.Method == http.MethodGet {
		_, _ = c.w.Write(raw) // a client that is gone needs no answer
	}
	return nil
}

// putManifest keeps a manifest by its digest, under the tag of the path or under those
// of the query.
func (c *call) putManifest() error {
	if err := c.may(Push); err != nil {
		return err
	}
	if err := c.room(c.minFree / 2); err != nil {
		return err
	}
	var want digest.Digest // "" when a tag was given
	names := c.req.URL.Query()["tag"]
	if strings.Contains(c.reference, ":") {
		var err error
		if want, err = storage.ParseDigest(c.reference); err != nil {
			return err
		}
	} else {
		names = append(names, c.reference)
	}
	for _, tag := range names {
		if err := storage.CheckTag(tag); err != nil {
			return err
		}
	}
	m, err := c.readManifest(want)
	if err != nil {
		return err
	}
	retag, err := c.mayRetag(names, m.Digest)
	if err != nil {
		return err
	}
	err = c.charged(m.Digest, int64(len(m.Raw)), func() error {
		return c.store.PutManifest(c.name, m, storage.PutOptions{Tags: names, Retag: retag})
	})
	if err != nil {
		return err
	}
	c.tell(m, names)
	h := c.w.Header()
	h.Set("Location", "/v2/"+c.name+"/manifests/"+m.Digest.String())
	h.Set("Docker-Content-Digest", m.Digest.String())
	h.Set("Content-Length", "0")
	if m.Subject != nil {
		h.Set("OCI-Subject", m.Subject.Digest.String())
	}
	for _, tag := range c.req.URL.Query()["tag"] {
		h.Add("OCI-Tag", tag)
	}
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

func (c *call) readManifest(want digest.Digest) (*storage.Manifest, error) {
	if c.req.ContentLength > maxManifest {
		return nil, tooLarge(c.req.ContentLength)
	}
	raw, err := io.ReadAll(http.MaxBytesReader(c.w, c.req.Body, maxManifest))
	if large := new(http.MaxBytesError); errors.As(err, &large) {
		return nil, tooLarge(maxManifest + 1)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", storage.ErrSizeInvalid, err)
	}
	a := digest.SHA256
	if want != "" {
		a = want.Algorithm()
	}
	if got := a.FromBytes(raw); want != "" && got != want {
		return nil, fmt.Errorf("%w: the manifest is %s, not %s", storage.ErrDigestInvalid, got, want)
	}
	return storage.ParseManifest(raw, c.req.Header.Get("Content-Type"), a)
}

func tooLarge(size int64) error {
	return &refusal{status: http.StatusRequestEntityTooLarge, code: "SIZE_INVALID", message: fmt.Sprintf("a manifest of %d bytes is too large: at most %d are accepted", size, maxManifest)}
}

// mayRetag asks for the right to move those tags that name another manifest. What it
// returns answers for a tag that appeared meanwhile.
func (c *call) mayRetag(names []string, to digest.Digest) (func(tag string, from digest.Digest) error, error) {
	var allowed bool
	for _, tag := range names {
		from, err := c.store.Tag(c.name, tag)
		if err != nil || from == to {
			continue
		}
		if c.holds.immutable(tag) {
			return nil, c.immutable(tag, "moved")
		}
		if allowed {
			continue
		}
		if err := c.may(Overwrite); err != nil {
			return nil, err
		}
		allowed = true
	}
	return func(tag string, from digest.Digest) error {
		if c.holds.immutable(tag) {
			return c.immutable(tag, "moved")
		}
		if !allowed {
			return &refusal{status: http.StatusConflict, code: "DENIED", message: "tag " + tag + " was pushed by somebody else at the same time: push again"}
		}
		return nil
	}, nil
}

// mayDelete refuses to delete a tag that is immutable.
func (c *call) mayDelete(tag string) error {
	if c.holds.immutable(tag) {
		return c.immutable(tag, "deleted")
	}
	return nil
}

func (c *call) immutable(tag, what string) error {
	return &refusal{status: http.StatusForbidden, code: "DENIED", message: fmt.Sprintf("tag %s of %s is immutable and cannot be %s: push another tag, or have the RegistryPolicy in namespace %s changed", tag, c.name, what, Namespace(c.name))}
}

// tell reports a manifest that was pushed.
func (c *call) tell(m *storage.Manifest, names []string) {
	e := Event{Repository: c.name, Digest: m.Digest, MediaType: m.MediaType}
	if m.Subject != nil {
		e.Subject = m.Subject.Digest
	}
	if len(names) == 0 {
		c.pushed(e)
	}
	for _, e.Tag = range names {
		c.pushed(e)
	}
}

// deleteManifest deletes a tag, or a manifest with all its tags.
func (c *call) deleteManifest() error {
	if err := c.may(Delete); err != nil {
		return err
	}
	if strings.Contains(c.reference, ":") {
		d, err := storage.ParseDigest(c.reference)
		if err != nil {
			return err
		}
		if err := c.store.DeleteManifest(c.name, d, c.mayDelete); err != nil {
			return err
		}
	} else {
		if err := storage.CheckTag(c.reference); err != nil {
			return err
		}
		if err := c.mayDelete(c.reference); err != nil {
			return err
		}
		if err := c.store.DeleteTag(c.name, c.reference, ""); err != nil {
			return err
		}
	}
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}
