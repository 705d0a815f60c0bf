package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"

	"github.com/gantryhq/gantry/internal/hint"
)

// Client asks the `gantry serve` of a data directory for its images.
type Client struct {
	http *http.Client
}

// NewClient returns a client for the store under dataDir. It connects when used.
func NewClient(dataDir string) *Client {
	socket := filepath.Join(dataDir, "run", SocketName)
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "unix", socket)
			return conn, hint.Wrap(err, "is `gantry serve` running with this data directory, and are you root?")
		},
	}}}
}

// List returns the images on the machine.
func (c *Client) List(ctx context.Context) ([]Summary, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/images", nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list []Summary
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return list, nil
}

// Remove forgets a name on the machine.
func (c *Client) Remove(ctx context.Context, ref string) error {
	return c.simple(ctx, http.MethodDelete, "/v1/images", url.Values{"ref": {ref}})
}

// Tag gives an image a further name.
func (c *Client) Tag(ctx context.Context, ref, name string) error {
	return c.simple(ctx, http.MethodPost, "/v1/tag", url.Values{"ref": {ref}, "name": {name}})
}

// Pull has the machine pull ref, with optional credentials.
func (c *Client) Pull(ctx context.Context, ref, user, password string, progress func(Progress)) (*Summary, error) {
	return c.transfer(ctx, "/v1/pull", transferRequest{Ref: ref, User: user, Password: password}, progress)
}

// Push has the machine send ref to a registry under name, with optional credentials.
func (c *Client) Push(ctx context.Context, ref, name, user, password string, progress func(Progress)) (*Summary, error) {
	return c.transfer(ctx, "/v1/push", transferRequest{Ref: ref, Name: name, User: user, Password: password}, progress)
}

// Import loads an archive; name is for an image in it that has none.
func (c *Client) Import(ctx context.Context, archive io.Reader, name string) ([]*Summary, error) {
	resp, err := c.do(ctx, http.MethodPost, "/v1/import", url.Values{"name": {name}}, archive)
	if err != nil {
		return nil, err
	}
	return events(resp, nil)
}

// Export writes images as an archive to w.
func (c *Client) Export(ctx context.Context, w io.Writer, refs ...string) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/export", url.Values{"ref": refs}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("export images: %w", err)
	}
	return nil
}

func (c *Client) simple(ctx context.Context, method, path string, query url.Values) error {
	resp, err := c.do(ctx, method, path, query, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (c *Client) transfer(ctx context.Context, path string, body transferRequest, progress func(Progress)) (*Summary, error) {
	blob, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	resp, err := c.do(ctx, http.MethodPost, path, nil, bytes.NewReader(blob))
	if err != nil {
		return nil, err
	}
	list, err := events(resp, progress)
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://images"+path+"?"+query.Encode(), body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the URL is our own business
		}
		return nil, fmt.Errorf("ask gantry for images: %w", err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var ev event
	if err := json.NewDecoder(resp.Body).Decode(&ev); err != nil || ev.Error == "" {
		return nil, fmt.Errorf("ask gantry for images: it answered %s", resp.Status)
	}
	return nil, ev.err()
}

// err is the error that travelled in e.
func (e event) err() error {
	err := errors.New(e.Error)
	if e.Hint != "" {
		return hint.Wrap(err, "%s", e.Hint)
	}
	return err
}

// events reads a transfer to its end.
func events(resp *http.Response, progress func(Progress)) ([]*Summary, error) {
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var ev event
		if err := dec.Decode(&ev); err != nil {
			return nil, fmt.Errorf("gantry stopped in the middle of the transfer: %w", err)
		}
		switch {
		case ev.Error != "":
			return nil, ev.err()
		case len(ev.Images) > 0:
			return ev.Images, nil
		case ev.Progress != nil && progress != nil:
			progress(*ev.Progress)
		}
	}
}
