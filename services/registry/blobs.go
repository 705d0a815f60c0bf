package registry

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/gantryhq/gantry/services/registry/storage"
)

func (c *call) getBlob() error {
	d, err := storage.ParseDigest(c.reference)
	if err != nil {
		return err
	}
	if err := c.may(Pull); err != nil {
		return err
	}
	if c.holds.Upstream != nil {
		if err := c.ensureBlob(d); err != nil {
			return err
		}
	}
	if c.req.Method == http.MethodHead {
		size, err := c.store.StatBlob(c.name, d)
		if err != nil {
			return err
		}
		c.describe(d, "application/octet-stream")
		c.w.Header().Set("Accept-Ranges", "bytes")
		c.w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		return nil
	}
	f, err := c.store.Blob(c.name, d)
	if err != nil {
		return err
	}
	defer f.Close()
	c.describe(d, "application/octet-stream")
	// Ranges, conditions, and sendfile.
	http.ServeContent(c.w, c.req, "", time.Time{}, f)
	return nil
}

// describe sets the headers of content that never changes.
func (c *call) describe(d digest.Digest, mediaType string) {
	h := c.w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Docker-Content-Digest", d.String())
	h.Set("ETag", `"`+d.String()+`"`)
}

func (c *call) deleteBlob() error {
	d, err := storage.ParseDigest(c.reference)
	if err != nil {
		return err
	}
	if err := c.may(Delete); err != nil {
		return err
	}
	if err := c.store.DeleteBlob(c.name, d); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}

// beginUpload begins an upload, takes a whole blob, or mounts one of another repository.
func (c *call) beginUpload() error {
	if err := c.may(Push); err != nil {
		return err
	}
	q := c.req.URL.Query()
	if text := q.Get("mount"); text != "" {
		done, err := c.mount(text, q.Get("from"))
		if done || err != nil {
			return err
		}
	}
	if err := c.room(c.minFree); err != nil {
		return err
	}
	a := digest.SHA256
	var d digest.Digest
	if text := q.Get("digest"); text != "" {
		var err error
		if d, err = storage.ParseDigest(text); err != nil {
			return err
		}
		a = d.Algorithm()
	}
	u, err := c.store.NewUpload(c.name, a)
	if err != nil {
		return err
	}
	if d != "" {
		if err := c.receive(u, -1); err != nil {
			_ = u.Cancel() // nobody knows of it
			return err
		}
		return c.commit(u, d)
	}
	c.uploadAt(u, http.StatusAccepted)
	return nil
}

// mount is done when the blob was found in a repository from which the caller may pull:
// the one that the client names, or any.
func (c *call) mount(text, from string) (done bool, err error) {
	d, err := storage.ParseDigest(text)
	if err != nil {
		return false, err
	}
	if from != "" {
		if storage.CheckName(from) != nil || c.caller.May(c.req.Context(), Pull, from) != nil {
			return false, nil // then the client sends it
		}
	} else if from, err = c.find(d); err != nil || from == "" {
		return false, err
	}
	size, err := c.store.BlobSize(from, d)
	if errors.Is(err, storage.ErrBlobUnknown) {
		return false, nil // then the client sends it
	}
	if err != nil {
		return false, err
	}
	err = c.charged(d, size, func() error { return c.store.Mount(from, c.name, d) })
	if errors.Is(err, storage.ErrBlobUnknown) {
		return false, nil // it was collected just now
	}
	if err != nil {
		return false, err
	}
	c.created(d)
	return true, nil
}

// find looks for a repository with a blob that the caller may pull, "" when there is none.
func (c *call) find(d digest.Digest) (string, error) {
	found := ""
	err := c.store.Repositories(func(name string) error {
		if found != "" {
			return nil
		}
		here, err := c.store.HasBlob(name, d)
		if here && c.caller.May(c.req.Context(), Pull, name) == nil {
			found = name
		}
		return err
	})
	return found, err
}

// created answers that a blob is here.
func (c *call) created(d digest.Digest) {
	c.w.Header().Set("Location", "/v2/"+c.name+"/blobs/"+d.String())
	c.w.Header().Set("Docker-Content-Digest", d.String())
	c.w.Header().Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusCreated)
}
