package proxy

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/gantryhq/gantry/services/gateway/guard"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// provider is an OpenID Connect provider at which everybody is anna.
type provider struct {
	*httptest.Server
	t   *testing.T
	key *rsa.PrivateKey

	mu       sync.Mutex
	codes    map[string]url.Values // what the login was asked with
	renewals int
	lifetime int64  // of access tokens, in seconds
	nonce    string // instead of the right one, or ""
	now      func() time.Time
}

func newProvider(t *testing.T, now func() time.Time) *provider {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{t: t, key: key, codes: map[string]url.Values{}, lifetime: 300, now: now}
	mux := http.NewServeMux()
	mux.HandleFunc(guard.DiscoveryPath, func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[string]string{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token",
			"end_session_endpoint": p.URL + "/end", "jwks_uri": p.URL + "/keys",
		})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "1", Use: "sig"}}})
	})
	mux.HandleFunc("/authorize", p.authorize)
	mux.HandleFunc("/token", p.token)
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *provider) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("code_challenge_method") != "S256" || q.Get("state") == "" || q.Get("nonce") == "" || !strings.Contains(q.Get("scope"), "openid") {
		p.t.Errorf("the login is asked with %v", q)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	code := fmt.Sprintf("code-%d", len(p.codes))
	p.codes[code] = q
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {q.Get("state")}}.Encode(), http.StatusFound)
}

func (p *provider) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, secret, _ := r.BasicAuth()
	if id != "shop" || secret != "client-secret" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	claims := map[string]any{"iss": p.URL, "aud": "shop", "sub": "anna", "exp": p.now().Add(time.Hour).Unix(), "email": "anna@example.com"}
	switch r.FormValue("grant_type") {
	case "authorization_code":
		asked := p.codes[r.FormValue("code")]
		delete(p.codes, r.FormValue("code"))
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if asked == nil || base64.RawURLEncoding.EncodeToString(sum[:]) != asked.Get("code_challenge") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if claims["nonce"] = asked.Get("nonce"); p.nonce != "" {
			claims["nonce"] = p.nonce
		}
	case "refresh_token":
		p.renewals++
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: p.key, KeyID: "1"}}, nil)
	if err != nil {
		p.t.Error(err)
		return
	}
	idToken, _ := jwt.Signed(signer).Claims(claims).Serialize()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{
		"access_token": fmt.Sprintf("access-%d", p.renewals), "token_type": "Bearer", "expires_in": p.lifetime,
		"refresh_token": fmt.Sprintf("refresh-%d", p.renewals), "id_token": idToken,
	})
}

// site is a gateway whose route needs a login, and a browser.
type site struct {
	*gateway
	t        *testing.T
	provider *provider
	login    *guard.Login
	browser  *http.Client
}

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	off time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += d
}

func newSite(t *testing.T, c *clock) *site {
	p := newProvider(t, c.now)
	keys := guard.NewRemoteKeySet(p.URL+"/keys", time.Hour)
	tokens := &guard.Tokens{Issuer: p.URL, Audiences: []string{"shop"}, Keys: keys, ClientField: "X-Client", ClaimFields: []guard.ClaimField{{Claim: "email", Name: "X-Email"}}}
	tokens.Seal()
	l := &guard.Login{
		Policy: "AccessPolicy/test/login", Tokens: tokens, ClientID: "shop", ClientSecret: "client-secret", Scopes: []string{"openid", "email"},
		CallbackPath: "/oauth2/callback", LogoutPath: "/oauth2/logout", Session: time.Hour, AccessTokenField: "X-Access-Token",
	}
	if err := l.Seal([]byte(strings.Repeat("0123456789abcdef", 2))); err != nil {
		t.Fatal(err)
	}
	a := &guard.Authentication{Policy: "AccessPolicy/test/login", Login: l, ClientField: "X-Client"}
	a.Seal()
	keeper := guard.NewKeeper(guard.KeeperConfig{Now: c.now, Fetch: func(ctx context.Context, url string) ([]byte, error) {
		r, err := http.Get(url)
		if err != nil {
			return nil, err
		}
		defer r.Body.Close()
		return io.ReadAll(r.Body)
	}})
	t.Cleanup(keeper.Close)
	g := newGateway(t, func(cfg *Config) { cfg.Guards = keeper })
	rule := to("web")
	rule.Guard = guard.NewPlace(&guard.Rules{Authentication: a})
	g.rule("", "/", rule)
	g.apply()
	g.endpoints("web", route.HTTP1, backend(t, "web"))
	s := &site{gateway: g, t: t, provider: p, login: l}
	s.browser = s.newBrowser()
	return s
}

func (s *site) newBrowser() *http.Client {
	jar, _ := cookiejar.New(nil)
	return &http.Client{Jar: jar}
}

// visit asks for a page as a browser does.
func (s *site) visit(browser *http.Client, path string, edit ...func(*http.Request)) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequest("GET", "http://"+s.address+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/html")
	for _, e := range edit {
		e(r)
	}
	response, err := browser.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response, string(body)
}

func still(b *http.Client) *http.Client {
	return &http.Client{Jar: b.Jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func TestABrowserLogsInAndComesBack(t *testing.T) {
	c := &clock{}
	s := newSite(t, c)
	r, body := s.visit(s.browser, "/orders?page=2", with("X-Client", "root"), with("Cookie", "theme=dark"))
	if r.StatusCode != 200 || r.Request.URL.RequestURI() != "/orders?page=2" || !strings.Contains(body, "X-Client: anna\r\n") || !strings.Contains(body, "X-Email: anna@example.com\r\n") || !strings.Contains(body, "X-Access-Token: access-0") {
		t.Fatalf("came back to %s with %d %s", r.Request.URL, r.StatusCode, body)
	}
	r, body = s.visit(s.browser, "/again", with("Cookie", "theme=dark"))
	if r.StatusCode != 200 || strings.Contains(body, "gantry_") || strings.Contains(body, "root") {
		t.Errorf("the backend sees %s", body)
	}
	// Programs are not sent to log in.
	r, body = s.get("shop.example.com", "/", with("Accept", "application/json"))
	problemOf(t, r, body, 401)
}

func TestASessionIsRenewedOnceAndEnds(t *testing.T) {
	c := &clock{}
	s := newSite(t, c)
	s.visit(s.browser, "/")
	c.pass(5 * time.Minute)
	var visits sync.WaitGroup
	for range 8 {
		visits.Go(func() {
			if r, body := s.visit(still(s.browser), "/"); r.StatusCode != 200 || !strings.Contains(body, "X-Access-Token: access-1") {
				t.Errorf("%d %s", r.StatusCode, body)
			}
		})
	}
	visits.Wait()
	if s.provider.renewals != 1 {
		t.Errorf("the tokens were renewed %d times", s.provider.renewals)
	}
	c.pass(2 * time.Hour)
	if r, _ := s.visit(still(s.browser), "/"); r.StatusCode != http.StatusFound || !strings.HasPrefix(r.Header.Get("Location"), s.provider.URL) {
		t.Errorf("after the session's end: %d to %s", r.StatusCode, r.Header.Get("Location"))
	}
}

func TestALoginBelongsToItsBrowser(t *testing.T) {
	c := &clock{}
	s := newSite(t, c)
	victim, attacker := s.newBrowser(), s.newBrowser()
	begin := func(b *http.Client) string { // returns the address that the provider leads to
		r, _ := s.visit(still(b), "/")
		r, err := still(&http.Client{}).Get(r.Header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		u, _ := url.Parse(r.Header.Get("Location"))
		return u.RequestURI()
	}
	back := begin(attacker)
	if r, _ := s.visit(still(victim), back); r.StatusCode != 403 {
		t.Errorf("a login that another browser began is completed: %d", r.StatusCode)
	}
	if r, _ := s.visit(still(attacker), strings.Replace(back, "state=", "state=x", 1)); r.StatusCode != 403 {
		t.Errorf("another state: %d", r.StatusCode)
	}
	if r, _ := s.visit(still(attacker), back); r.StatusCode != http.StatusSeeOther {
		t.Fatalf("its own login: %d", r.StatusCode)
	}
	if r, _ := s.visit(still(attacker), back); r.StatusCode != 403 {
		t.Errorf("a login is completed twice: %d", r.StatusCode)
	}
	late := begin(victim)
	c.pass(time.Hour)
	if r, _ := s.visit(still(victim), late); r.StatusCode != 403 {
		t.Errorf("a login is completed after an hour: %d", r.StatusCode)
	}
	s.provider.nonce = "another"
	if r, _ := s.visit(still(victim), begin(victim)); r.StatusCode != 403 {
		t.Errorf("an ID token of another login: %d", r.StatusCode)
	}
}

func TestCookiesCannotBeChanged(t *testing.T) {
	c := &clock{}
	s := newSite(t, c)
	s.visit(s.browser, "/")
	u, _ := url.Parse("http://" + s.address)
	var session *http.Cookie
	for _, cookie := range s.browser.Jar.Cookies(u) {
		if strings.HasSuffix(cookie.Name, "_s0") {
			session = cookie
		}
	}
	if session == nil {
		t.Fatal("there is no session")
	}
	in := func(value string) int {
		r, _ := s.get("shop.example.com", "/", with("Cookie", session.Name+"="+value), with("Accept", "application/json"))
		return r.StatusCode
	}
	if in(session.Value) != 200 {
		t.Fatal("the session is not accepted as it is")
	}
	for i := 0; i < len(session.Value); i += 37 {
		changed := []byte(session.Value)
		if changed[i] ^= 1; in(string(changed)) != 401 {
			t.Errorf("a cookie with another byte %d is accepted", i)
		}
	}
	other := *s.login
	if err := other.Seal([]byte(strings.Repeat("another secret..", 2))); err != nil {
		t.Fatal(err)
	}
	forged, err := other.Keep(&guard.Session{Claims: map[string]any{"sub": "root"}, Renew: 1 << 40, End: 1 << 40}, false, c.now())
	if err != nil || in(forged[0].Value) != 401 {
		t.Errorf("a cookie of another secret is accepted, %v", err)
	}
	attempt, err := s.login.Begin(&guard.Attempt{State: "01234567", Return: "/"}, false, time.Hour)
	if err != nil || in(attempt.Value) != 401 {
		t.Errorf("the cookie of an attempt is taken for a session, %v", err)
	}
}

func TestOnlyPagesOfTheSiteLogOut(t *testing.T) {
	c := &clock{}
	s := newSite(t, c)
	s.visit(s.browser, "/")
	for _, foreign := range []func(*http.Request){func(*http.Request) {}, with("Sec-Fetch-Site", "cross-site"), with("Origin", "https://evil.example.com")} {
		if r, _ := s.visit(still(s.browser), "/oauth2/logout", foreign); r.StatusCode != 403 {
			t.Errorf("another site logs out: %d", r.StatusCode)
		}
	}
	r, _ := s.visit(still(s.browser), "/oauth2/logout", with("Sec-Fetch-Site", "same-origin"))
	if r.StatusCode != http.StatusSeeOther || !strings.HasPrefix(r.Header.Get("Location"), s.provider.URL+"/end?") {
		t.Errorf("logging out: %d to %s", r.StatusCode, r.Header.Get("Location"))
	}
	if r, _ := s.visit(still(s.browser), "/"); r.StatusCode != http.StatusFound {
		t.Errorf("after logging out: %d", r.StatusCode)
	}
}
