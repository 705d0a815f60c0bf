package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"

	"github.com/gantryhq/gantry/services/registry/storage"
)

// Upstream is another registry whose content a repository keeps.
type Upstream struct {
	Server     string         // such as https://registry-1.docker.io
	Repository string         // there
	Roots      *x509.CertPool // nil means the host's
	Refresh    time.Duration  // for how long a tag is answered without asking
	// Login returns the login for it; nil means anonymous.
	Login func(ctx context.Context) (user, password string, err error)
}

const (
	// askTimeout bounds a question after a tag, so that what is here is answered soon when
	// the upstream is away; fetchTimeout a layer.
	askTimeout   = 20 * time.Second
	fetchTimeout = 30 * time.Minute
)

// selfHeader tells an upstream who asks, so that a registry that is its own notices.
const selfHeader = "X-Gantry-Registry"

// refuseWrites refuses to push to what is another registry's.
func (c *call) refuseWrites() error {
	switch c.req.Method {
	case http.MethodPut, http.MethodPost, http.MethodPatch:
		return &refusal{status: http.StatusMethodNotAllowed, code: "UNSUPPORTED", message: fmt.Sprintf("%s keeps images of %s: push them there", c.name, c.holds.Upstream.Server)}
	}
	return nil
}

// flight runs fn once for all that ask for the same thing at a time. It goes on when they
// leave, so that the next finds it done.
func (r *Registry) flight(ctx context.Context, key string, limit time.Duration, fn func(ctx context.Context) error) error {
	done := r.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		return nil, fn(ctx)
	})
	select {
	case result := <-done:
		return result.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ensureManifest gets a manifest from the upstream when it is not here, or when its tag
// may have moved. Without an answer what is here is served.
func (c *call) ensureManifest() error {
	byDigest := strings.Contains(c.reference, ":")
	if byDigest {
		d, err := storage.ParseDigest(c.reference)
		if err != nil {
			return err
		}
		if here, err := c.store.HasManifest(c.name, d); here || err != nil {
			return err
		}
	} else {
		if err := storage.CheckTag(c.reference); err != nil {
			return err
		}
		asked, err := c.store.TagTime(c.name, c.reference)
		if err == nil && time.Since(asked) < c.holds.Upstream.Refresh {
			return nil
		}
	}
	err := c.flight(c.req.Context(), "manifest "+c.name+" "+c.reference, askTimeout, func(ctx context.Context) error {
		return c.fetchManifest(ctx, byDigest)
	})
	if err == nil {
		return nil
	}
	if _, here := c.store.Tag(c.name, c.reference); !byDigest && here == nil {
		c.log.Warn("registry: an upstream did not answer, so what is here is served", "repository", c.name, "tag", c.reference, "err", err)
		return nil
	}
	return err
}

func (c *call) fetchManifest(ctx context.Context, byDigest bool) error {
	up := c.holds.Upstream
	repository, options, err := up.remote(ctx, c.id)
	if err != nil {
		return err
	}
	var ref name.Reference = repository.Tag(c.reference)
	a := digest.SHA256
	if byDigest {
		ref = repository.Digest(c.reference)
		a = digest.Digest(c.reference).Algorithm()
	}
	got, err := remote.Get(ref, options...) // checks a digest
	if err != nil {
		return up.explain(err)
	}
	if len(got.Manifest) > maxManifest {
		return tooLarge(int64(len(got.Manifest)))
	}
	m, err := storage.ParseManifest(got.Manifest, string(got.MediaType), a)
	if err == nil && byDigest && m.Digest.String() != c.reference {
		err = fmt.Errorf("%w: the upstream's manifest is %s, not %s", storage.ErrDigestInvalid, m.Digest, c.reference)
	}
	if err != nil {
		return up.explain(err)
	}
	opt := storage.PutOptions{Sparse: true}
	if !byDigest {
		opt.Tags = []string{c.reference}
	}
	known, err := c.store.HasManifest(c.name, m.Digest)
	if err != nil {
		return err
	}
	err = c.charged(m.Digest, int64(len(m.Raw)), func() error { return c.store.PutManifest(c.name, m, opt) })
	if err == nil && !known {
		c.tell(m, opt.Tags)
	}
	return err
}

// ensureBlob gets a blob from the upstream when it is not here.
func (c *call) ensureBlob(d digest.Digest) error {
	if here, err := c.store.HasBlob(c.name, d); here || err != nil {
		return err
	}
	return c.flight(c.req.Context(), "blob "+c.name+" "+d.String(), fetchTimeout, func(ctx context.Context) error {
		return c.fetchBlob(ctx, d)
	})
}

func (c *call) fetchBlob(ctx context.Context, d digest.Digest) error {
	if err := c.room(c.minFree); err != nil {
		return err
	}
	up := c.holds.Upstream
	repository, options, err := up.remote(ctx, c.id)
	if err != nil {
		return err
	}
	layer, err := remote.Layer(repository.Digest(d.String()), options...)
	if err != nil {
		return up.explain(err)
	}
	body, err := layer.Compressed()
	if err != nil {
		return up.explain(err)
	}
	defer body.Close()
	u, err := c.store.NewUpload(c.name, d.Algorithm())
	if err != nil {
		return err
	}
	err = u.Append(&watched{ReadCloser: body, room: func() error { return c.room(c.minFree / 2) }}, 0, -1)
	c.metrics.received.Add(float64(u.Size()))
	if err == nil {
		err = c.charged(d, u.Size(), func() error { return u.Commit(d) }) // checks the digest
	}
	if err != nil {
		_ = u.Cancel() // it may have ended
		return up.explain(err)
	}
	return nil
}

// remote returns the repository there and how to ask for it.
func (u *Upstream) remote(ctx context.Context, id string) (name.Repository, []remote.Option, error) {
	scheme, host, _ := strings.Cut(u.Server, "://")
	var how []name.Option
	if scheme == "http" {
		how = append(how, name.Insecure)
	}
	repository, err := name.NewRepository(host+"/"+u.Repository, how...)
	if err != nil {
		return name.Repository{}, nil, fmt.Errorf("upstream %s: %w", u.Server, err)
	}
	t := remote.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true // it is used for one question
	if u.Roots != nil {
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: u.Roots}
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithTransport(marked{t, id}), remote.WithUserAgent("gantry-registry"),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Steps: 2})}
	if u.Login != nil {
		user, password, err := u.Login(ctx)
		if err != nil {
			return name.Repository{}, nil, fmt.Errorf("login for upstream %s: %w", u.Server, err)
		}
		options = append(options, remote.WithAuth(&authn.Basic{Username: user, Password: password}))
	}
	return repository, options, nil
}

// marked tells who asks.
type marked struct {
	http.RoundTripper
	id string
}

func (m marked) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set(selfHeader, m.id)
	return m.RoundTripper.RoundTrip(req)
}

// explain makes an answer of what an upstream refused.
func (u *Upstream) explain(err error) error {
	var answered *transport.Error
	switch {
	case errors.As(err, &answered) && answered.StatusCode == http.StatusNotFound:
		return &refusal{status: http.StatusNotFound, code: "MANIFEST_UNKNOWN", message: fmt.Sprintf("upstream %s does not have it", u.Server)}
	case errors.As(err, &answered) && (answered.StatusCode == http.StatusUnauthorized || answered.StatusCode == http.StatusForbidden):
		return &refusal{status: http.StatusBadGateway, code: "DENIED", message: fmt.Sprintf("upstream %s refuses the login of its RegistryPolicy", u.Server)}
	case explain(err) != nil && !errors.Is(err, storage.ErrDigestInvalid) && !errors.Is(err, storage.ErrManifestInvalid):
		return err // the disk or the quota
	}
	return &refusal{status: http.StatusBadGateway, code: "UNAVAILABLE", message: fmt.Sprintf("upstream %s: %v", u.Server, withoutURL(err))}
}

// withoutURL leaves out addresses, which may hold tokens.
func withoutURL(err error) error {
	var e interface{ Unwrap() error }
	for errors.As(err, &e) && strings.Contains(err.Error(), "://") {
		inner := e.Unwrap()
		if inner == nil {
			break
		}
		err = inner
	}
	return err
}
