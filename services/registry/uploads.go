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

func (c *call) findUpload() (*storage.Upload, error) {
	if err := c.may(Push); err != nil {
		return nil, err
	}
	return c.store.Upload(c.name, c.reference)
}

// uploadAt tells where an upload goes on and how far it is.
func (c *call) uploadAt(u *storage.Upload, status int) {
	h := c.w.Header()
	h.Set("Location", "/v2/"+c.name+"/blobs/uploads/"+u.ID)
	h.Set("Range", "0-"+strconv.FormatInt(max(u.Size()-1, 0), 10))
	h.Set("Docker-Upload-UUID", u.ID)
	h.Set("Content-Length", "0")
	c.w.WriteHeader(status)
}

func (c *call) uploadStatus() error {
	u, err := c.findUpload()
	if err != nil {
		return err
	}
	c.uploadAt(u, http.StatusNoContent)
	return nil
}

func (c *call) sendChunk() error {
	u, err := c.findUpload()
	if err != nil {
		return err
	}
	if err := c.sendPart(u); err != nil {
		return err
	}
	c.uploadAt(u, http.StatusAccepted)
	return nil
}

func (c *call) endUpload() error {
	u, err := c.findUpload()
	if err != nil {
		return err
	}
	d, err := storage.ParseDigest(c.req.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	u.Expect(d.Algorithm())
	if c.req.ContentLength != 0 {
		if err := c.sendPart(u); err != nil {
			return err
		}
	}
	return c.commit(u, d)
}

func (c *call) cancelUpload() error {
	u, err := c.findUpload()
	if err != nil {
		return err
	}
	if err := u.Cancel(); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// sendPart adds the request's body where its range says. When that is elsewhere, the
// answer says where to go on.
func (c *call) sendPart(u *storage.Upload) error {
	at, length, err := contentRange(c.req)
	if err != nil {
		return err
	}
	if length >= 0 && c.req.ContentLength >= 0 && length != c.req.ContentLength {
		return fmt.Errorf("%w: a Content-Range of %d bytes with a Content-Length of %d", storage.ErrSizeInvalid, length, c.req.ContentLength)
	}
	err = c.receive(u, at)
	if errors.Is(err, storage.ErrRangeInvalid) {
		c.w.Header().Set("Location", "/v2/"+c.name+"/blobs/uploads/"+u.ID)
		c.w.Header().Set("Range", "0-"+strconv.FormatInt(max(u.Size()-1, 0), 10))
	}
	return err
}

// contentRange reads "first-last", as the distribution specification has it; -1 and
// -1 when there is none.
func contentRange(req *http.Request) (at, length int64, err error) {
	text := req.Header.Get("Content-Range")
	if text == "" {
		return -1, -1, nil
	}
	from, to, _ := strings.Cut(strings.TrimPrefix(text, "bytes "), "-")
	to, _, _ = strings.Cut(to, "/")
	first, err1 := strconv.ParseUint(from, 10, 62)
	last, err2 := strconv.ParseUint(to, 10, 62)
	if err1 != nil || err2 != nil || last < first {
		return 0, 0, &refusal{status: http.StatusRequestedRangeNotSatisfiable, code: "BLOB_UPLOAD_INVALID", message: fmt.Sprintf("Content-Range %q is not a range such as 0-1023", text)}
	}
	return int64(first), int64(last - first + 1), nil
}

// receive adds the request's body to an upload, as far as there is room.
func (c *call) receive(u *storage.Upload, at int64) error {
	length := c.req.ContentLength // -1 when unknown
	if err := c.room(length); err != nil {
		return err
	}
	if q := c.holds.Quota; q != nil && u.Size()+max(length, 0) > *q {
		return c.overQuota(*q)
	}
	body := c.req.Body
	if length < 0 { // as Docker sends layers
		body = &watched{ReadCloser: body, room: func() error { return c.room(c.minFree / 2) }}
	}
	if q := c.holds.Quota; q != nil { // nothing that is larger fits, whatever else is there
		body = struct {
			io.Reader
			io.Closer
		}{&limited{body, *q - u.Size(), c.overQuota(*q)}, body}
	}
	before := u.Size()
	err := u.Append(body, at, length)
	c.metrics.received.Add(float64(max(u.Size()-before, 0)))
	return err
}

func (c *call) commit(u *storage.Upload, d digest.Digest) error {
	if err := c.charged(d, u.Size(), func() error { return u.Commit(d) }); err != nil {
		if answer := explain(err); answer != nil && answer.status == http.StatusForbidden {
			_ = u.Cancel() // it could only be refused again
		}
		return err
	}
	c.created(d)
	return nil
}
