// Package login has people log in at an OpenID Connect provider (OpenID Connect Core
// 1.0, authorization code flow with PKCE, RFC 7636), for routes whose policy wants
// that. Which session a request has is decided by package guard; this package is
// asked only when the browser or the provider must be talked to.
//
// It guarantees: a login can be completed only by the browser that began it, once, and
// leads back to an address of this gateway; sessions exist in encrypted cookies only,
// so they outlive the gateway and it keeps nothing of them; tokens are renewed once
// however many requests notice; only pages of the same site can log somebody out.
// Imported by the gateway and its data plane only.
package login

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/gantryhq/gantry/services/gateway/guard"
)

const (
	attemptLasts    = 15 * time.Minute
	maxAnswer       = 1 << 20
	providerTimeout = 10 * time.Second
	discoverAgain   = time.Hour
	// renewBefore is how long before its expiry an access token is renewed.
	renewBefore = 30 * time.Second
	// renewedFor is how long requests with the cookie of before get the new session.
	renewedFor = time.Minute
)

// Desk talks to providers. It may be used concurrently.
type Desk struct {
	client *http.Client
	now    func() time.Time

	mu       sync.Mutex
	known    map[string]provider // guarded by mu: by issuer
	renewals map[string]*renewal // guarded by mu: by refresh token
}

// provider is what a provider publishes about itself.
type provider struct {
	Issuer        string `json:"issuer"`
	Authorization string `json:"authorization_endpoint"`
	Token         string `json:"token_endpoint"`
	EndSession    string `json:"end_session_endpoint"`

	until time.Time
}

type renewal struct {
	done    chan struct{}
	session *guard.Session
	err     error
}

// New returns a Desk that reaches providers with client.
func New(client *http.Client, now func() time.Time) *Desk {
	return &Desk{client: client, now: now, known: map[string]provider{}, renewals: map[string]*renewal{}}
}

// Serve does what the login of a request needs. Unless it returns a session, with
// which the request goes on, it has answered, or returns the refusal to answer with.
// byTLS says that the browser uses TLS, if only up to a proxy.
func (d *Desk) Serve(w http.ResponseWriter, r *http.Request, l *guard.Login, byTLS bool) (*guard.Session, *guard.Refusal) {
	r = r.WithContext(context.WithValue(r.Context(), byTLSKey{}, byTLS))
	w.Header().Set("Cache-Control", "no-store")
	var err error
	switch r.URL.Path {
	case l.CallbackPath:
		err = d.complete(w, r, l)
	case l.LogoutPath:
		err = d.logout(w, r, l)
	default:
		if s := l.Find(fields{r}, d.now()); s != nil && s.RefreshToken != "" {
			if s, err := d.renew(w, r, l, s); err == nil {
				w.Header().Del("Cache-Control") // the backend says it
				return s, nil
			}
		}
		err = d.begin(w, r, l)
	}
	if err == nil {
		return nil, nil
	}
	refusal := &guard.Refusal{Status: http.StatusForbidden, Kind: "login-failed", Policy: l.Policy, Detail: err.Error()}
	var away *unavailable
	if errors.As(err, &away) {
		refusal.Status, refusal.Fields = http.StatusBadGateway, "Retry-After: 5\r\n"
		refusal.Detail = "the login provider cannot be reached, or answers with an error"
	}
	return nil, refusal
}

// unavailable is an error that is the provider's.
type unavailable struct{ error }

func (u *unavailable) Unwrap() error { return u.error }

// discover reads what the policy does not say (OpenID Connect Discovery 1.0).
func (d *Desk) discover(ctx context.Context, l *guard.Login) (provider, error) {
	p := provider{Issuer: l.Tokens.Issuer, Authorization: l.AuthorizationURL, Token: l.TokenURL, EndSession: l.EndSessionURL}
	if p.Authorization != "" && p.Token != "" {
		return p, nil
	}
	d.mu.Lock()
	known, ok := d.known[p.Issuer]
	d.mu.Unlock()
	if !ok || d.now().After(known.until) {
		fresh, err := d.read(ctx, strings.TrimSuffix(p.Issuer, "/")+"/.well-known/openid-configuration")
		switch {
		case err != nil && !ok:
			return p, &unavailable{fmt.Errorf("read the provider's configuration: %w", err)}
		case err == nil && fresh.Issuer != p.Issuer:
			return p, &unavailable{fmt.Errorf("the provider says that it is %q", fresh.Issuer)}
		case err == nil:
			known = fresh
		}
		known.until = d.now().Add(discoverAgain)
		d.mu.Lock()
		d.known[p.Issuer] = known
		d.mu.Unlock()
	}
	return known, nil
}

func (d *Desk) read(ctx context.Context, url string) (p provider, err error) {
	ctx, cancel := context.WithTimeout(ctx, providerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return p, err
	}
	response, err := d.client.Do(request)
	if err != nil {
		return p, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return p, fmt.Errorf("the provider answered %s", response.Status)
	}
	err = json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&p)
	if err == nil && (p.Authorization == "" || p.Token == "") {
		err = errors.New("the provider names no endpoints")
	}
	return p, err
}

// callback is the address that the provider sends the browser back to.
func callback(r *http.Request, l *guard.Login) string {
	scheme := "http"
	if secure(r) {
		scheme = "https"
	}
	return (&url.URL{Scheme: scheme, Host: r.Host, Path: l.CallbackPath}).String()
}

func (d *Desk) oauth(r *http.Request, l *guard.Login, p provider) *oauth2.Config {
	style := oauth2.AuthStyleInHeader
	if l.ClientSecret == "" {
		style = oauth2.AuthStyleInParams
	}
	return &oauth2.Config{
		ClientID: l.ClientID, ClientSecret: l.ClientSecret, Scopes: l.Scopes, RedirectURL: callback(r, l),
		Endpoint: oauth2.Endpoint{AuthURL: p.Authorization, TokenURL: p.Token, AuthStyle: style},
	}
}

type byTLSKey struct{}

// secure tells whether the browser came by TLS.
func secure(r *http.Request) bool {
	yes, _ := r.Context().Value(byTLSKey{}).(bool)
	return yes
}

// begin sends the browser to the provider.
func (d *Desk) begin(w http.ResponseWriter, r *http.Request, l *guard.Login) error {
	p, err := d.discover(r.Context(), l)
	if err != nil {
		return err
	}
	back := r.URL.RequestURI()
	if !strings.HasPrefix(back, "/") || strings.HasPrefix(back, "//") || len(back) > 2048 {
		back = "/"
	}
	a := &guard.Attempt{State: random(), Nonce: random(), Verifier: oauth2.GenerateVerifier(), Return: back, Until: d.now().Add(attemptLasts).Unix()}
	cookie, err := l.Begin(a, secure(r), attemptLasts)
	if err != nil {
		return err
	}
	http.SetCookie(w, cookie)
	to := d.oauth(r, l, p).AuthCodeURL(a.State, oauth2.S256ChallengeOption(a.Verifier), oauth2.SetAuthURLParam("nonce", a.Nonce))
	http.Redirect(w, r, to, http.StatusFound)
	return nil
}

func random() string {
	b := make([]byte, 24)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// complete takes the browser back from the provider.
func (d *Desk) complete(w http.ResponseWriter, r *http.Request, l *guard.Login) error {
	query := r.URL.Query()
	a, end, err := l.Attempt(r, query.Get("state"), d.now())
	if err != nil {
		return err
	}
	http.SetCookie(w, end)
	if query.Get("error") != "" {
		return errors.New("the provider refused the login")
	}
	p, err := d.discover(r.Context(), l)
	if err != nil {
		return err
	}
	ctx, cancel := d.context(r.Context())
	defer cancel()
	token, err := d.oauth(r, l, p).Exchange(ctx, query.Get("code"), oauth2.VerifierOption(a.Verifier))
	if err != nil {
		return &unavailable{err}
	}
	s, err := d.session(ctx, l, token, a.Nonce)
	if err != nil {
		return err
	}
	s.End = d.now().Add(l.Session).Unix()
	if err := d.keep(w, r, l, s); err != nil {
		return err
	}
	http.Redirect(w, r, a.Return, http.StatusSeeOther)
	return nil
}

func (d *Desk) context(parent context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithValue(parent, oauth2.HTTPClient, d.client), providerTimeout)
}

// session makes one of tokens, of which the ID token is verified.
func (d *Desk) session(ctx context.Context, l *guard.Login, token *oauth2.Token, nonce string) (*guard.Session, error) {
	idToken, _ := token.Extra("id_token").(string)
	if idToken == "" {
		return nil, errors.New("the provider gave no ID token: its client must have the scope openid")
	}
	claims, wait, err := l.Verify(idToken, nonce, d.now())
	for range 2 {
		if wait == nil {
			break
		}
		wait(ctx)
		claims, wait, err = l.Verify(idToken, nonce, d.now())
	}
	switch {
	case wait != nil:
		return nil, &unavailable{errors.New("the provider's keys cannot be had")}
	case err != nil:
		return nil, err
	}
	s := &guard.Session{Claims: claims, RefreshToken: token.RefreshToken, IDToken: idToken}
	if l.AccessTokenField != "" {
		s.AccessToken = token.AccessToken
	}
	s.Renew = d.now().Add(l.Session).Unix()
	if !token.Expiry.IsZero() && token.RefreshToken != "" {
		s.Renew = d.renewAt(token)
	}
	return s, nil
}

// renewAt is when a token must be renewed; it comes with a time of the machine's clock.
func (d *Desk) renewAt(token *oauth2.Token) int64 {
	return d.now().Add(time.Until(token.Expiry) - renewBefore).Unix()
}

func (d *Desk) keep(w http.ResponseWriter, r *http.Request, l *guard.Login, s *guard.Session) error {
	cookies, err := l.Keep(s, secure(r), d.now())
	if err != nil {
		return err
	}
	for _, c := range cookies {
		http.SetCookie(w, c)
	}
	return nil
}

// renew gets new tokens, once for all requests that have the same old ones.
func (d *Desk) renew(w http.ResponseWriter, r *http.Request, l *guard.Login, old *guard.Session) (*guard.Session, error) {
	d.mu.Lock()
	n, going := d.renewals[old.RefreshToken]
	if !going {
		n = &renewal{done: make(chan struct{})}
		d.renewals[old.RefreshToken] = n
	}
	d.mu.Unlock()
	if !going {
		n.session, n.err = d.refresh(r, l, old)
		close(n.done)
		time.AfterFunc(renewedFor, func() {
			d.mu.Lock()
			delete(d.renewals, old.RefreshToken)
			d.mu.Unlock()
		})
	}
	select {
	case <-n.done:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if n.err != nil {
		return nil, n.err
	}
	return n.session, d.keep(w, r, l, n.session)
}

func (d *Desk) refresh(r *http.Request, l *guard.Login, old *guard.Session) (*guard.Session, error) {
	p, err := d.discover(r.Context(), l)
	if err != nil {
		return nil, err
	}
	ctx, cancel := d.context(context.WithoutCancel(r.Context())) // others wait for it too
	defer cancel()
	token, err := d.oauth(r, l, p).TokenSource(ctx, &oauth2.Token{RefreshToken: old.RefreshToken}).Token()
	if err != nil {
		return nil, err
	}
	if token.RefreshToken == "" {
		token.RefreshToken = old.RefreshToken
	}
	if token.Extra("id_token") == nil { // a renewal need not have one
		s := *old
		s.RefreshToken, s.Renew = token.RefreshToken, d.renewAt(token)
		if s.AccessToken != "" {
			s.AccessToken = token.AccessToken
		}
		return l.Renewed(&s), nil
	}
	s, err := d.session(ctx, l, token, "")
	if err != nil {
		return nil, err
	}
	if s.Claims["sub"] != old.Claims["sub"] {
		return nil, errors.New("the renewed tokens are somebody else's")
	}
	s.End = old.End
	return l.Renewed(s), nil
}

// logout ends the session here and, if it can be ended there, at the provider.
func (d *Desk) logout(w http.ResponseWriter, r *http.Request, l *guard.Login) error {
	if !sameSite(r) {
		return errors.New("only a page of this site can log you out")
	}
	s := l.Find(fields{r}, d.now())
	if err := d.keep(w, r, l, nil); err != nil {
		return err
	}
	to := "/"
	if p, err := d.discover(r.Context(), l); err == nil && p.EndSession != "" && s != nil && s.IDToken != "" {
		if u, err := url.Parse(p.EndSession); err == nil {
			q := u.Query()
			q.Set("id_token_hint", s.IDToken)
			q.Set("client_id", l.ClientID)
			u.RawQuery = q.Encode()
			to = u.String()
		}
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

// sameSite tells whether a page of this site, or the person at the browser, has sent
// a request.
func sameSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return true
	case "":
		u, err := url.Parse(r.Header.Get("Origin"))
		return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
	}
	return false
}

// fields reads what guard asks of a request.
type fields struct{ request *http.Request }

func (f fields) Field(name string) (string, int) {
	values := f.request.Header.Values(name)
	if len(values) == 0 {
		return "", 0
	}
	return values[0], len(values)
}

func (f fields) Parameter(name string) (string, int) {
	return guard.Parameter(f.request.URL.RawQuery, name)
}
