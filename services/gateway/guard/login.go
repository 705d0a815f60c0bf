package guard

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Login has people log in at an OpenID Connect provider. Who is logged in is kept in a
// cookie that only the gateway can read or make; what must talk to the provider is
// done by package login.
type Login struct {
	Policy string
	// Tokens verify ID tokens; Tokens.Audiences is the client ID.
	Tokens *Tokens

	ClientID, ClientSecret                    string
	AuthorizationURL, TokenURL, EndSessionURL string
	Scopes                                    []string
	CallbackPath, LogoutPath                  string
	// Session is how long a login lasts at most.
	Session time.Duration
	// AccessTokenField is the header that tells backends the access token, or "".
	AccessTokenField string

	name     string // of the cookies
	aead     cipher.AEAD
	sessions *recent[*Session]
}

// Session is what the cookie holds.
type Session struct {
	Claims       map[string]any `json:"c"`
	AccessToken  string         `json:"a,omitempty"`
	RefreshToken string         `json:"r,omitempty"`
	IDToken      string         `json:"i,omitempty"`
	// Renew is when the tokens must be renewed, End when one has to log in again.
	Renew int64 `json:"n"`
	End   int64 `json:"e"`

	id *Identity
}

// maxSession bounds what a cookie may hold: browsers send at least that much.
const (
	maxSession = 16 << 10
	cookiePart = 3800
	maxParts   = 5
)

// Seal makes the login ready. secret is what the key of the cookies is derived from;
// other gateways with the same secret read the same cookies.
func (l *Login) Seal(secret []byte) error {
	if len(secret) < 32 {
		return fmt.Errorf("the cookie secret has %d bytes: it needs 32 random ones", len(secret))
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "gantry gateway login "+l.Policy, 32)
	if err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	if l.aead, err = cipher.NewGCM(block); err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(l.Policy))
	l.name = fmt.Sprintf("gantry_%x", sum[:6])
	l.sessions = newRecent[*Session](2048)
	return nil
}

// identify finds the session of a request. Without one, people with browsers are sent
// to log in, which others are not.
func (l *Login) identify(q *Request, p *Pass) (Verdict, bool) {
	if p.Session != nil {
		p.Identity = p.Session.id
		return Admitted, true
	}
	if q.Path == l.CallbackPath || q.Path == l.LogoutPath {
		p.Login = l
		return Elsewhere, true
	}
	if s := l.Find(q.Fields, q.Now); s != nil {
		if q.Now.Unix() >= s.Renew && s.RefreshToken != "" {
			p.Login = l
			return Elsewhere, true
		}
		p.Identity = s.id
		return Admitted, true
	}
	accept, _ := q.Fields.Field("Accept")
	if q.Method == http.MethodGet && strings.Contains(accept, "text/html") {
		p.Login = l
		return Elsewhere, true
	}
	return Admitted, false
}

// Renewed makes a session ready that takes the place of one before.
func (l *Login) Renewed(s *Session) *Session {
	s.id = l.identity(s)
	return s
}

// Find returns the session of a request, or nil. Its tokens may have to be renewed.
func (l *Login) Find(f Fields, now time.Time) *Session {
	header, count := f.Field("Cookie")
	if count != 1 || !strings.Contains(header, l.name) {
		return nil
	}
	sealed := l.join(header)
	if sealed == "" || len(sealed) > 2*maxSession {
		return nil
	}
	key := sum256(sealed)
	s, known := l.sessions.get(key)
	if !known {
		s = &Session{}
		if l.open("session", sealed, s) != nil {
			return nil
		}
		if s.id = l.identity(s); s.id == nil {
			return nil
		}
		l.sessions.put(key, s)
	}
	if now.Unix() >= s.End || now.Unix() >= s.Renew && s.RefreshToken == "" {
		return nil
	}
	return s
}

func (l *Login) identity(s *Session) *Identity {
	t := l.Tokens
	id := &Identity{Method: "oidc", Client: claimText(s.Claims, t.ClientClaim), Groups: claimTexts(s.Claims, t.GroupsClaim), Claims: s.Claims}
	if t.ClientField != "" {
		id.Header = appendField(id.Header, t.ClientField, id.Client)
	}
	for _, f := range t.ClaimFields {
		if v := claimText(s.Claims, f.Claim); v != "" && len(v) <= maxClaimText {
			id.Header = appendField(id.Header, f.Name, v)
		}
	}
	if l.AccessTokenField != "" && s.AccessToken != "" {
		id.Header = appendField(id.Header, l.AccessTokenField, s.AccessToken)
	}
	return id
}

// join puts the parts of the session's cookie together.
func (l *Login) join(header string) string {
	var parts [maxParts]string
	for pair := range strings.SplitSeq(header, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		n, ours := strings.CutPrefix(name, l.name+"_s")
		if i, err := strconv.Atoi(n); ours && err == nil && i >= 0 && i < maxParts && parts[i] == "" {
			parts[i] = value
		}
	}
	return strings.Join(parts[:], "")
}

// Keep returns the cookies that hold a session, and those that end older ones.
func (l *Login) Keep(s *Session, secure bool, now time.Time) ([]*http.Cookie, error) {
	sealed := ""
	if s != nil {
		var err error
		if sealed, err = l.seal("session", s); err != nil {
			return nil, err
		}
		if len(sealed) > maxParts*cookiePart {
			s.IDToken = "" // only logging out at the provider needs it
			if sealed, err = l.seal("session", s); err != nil {
				return nil, err
			}
		}
		if len(sealed) > maxParts*cookiePart {
			return nil, errors.New("the tokens of the provider are too long for cookies")
		}
	}
	var cookies []*http.Cookie
	for i := range maxParts {
		part := sealed[min(i*cookiePart, len(sealed)):min((i+1)*cookiePart, len(sealed))]
		c := l.cookie("_s"+strconv.Itoa(i), part, secure)
		if part == "" {
			c.MaxAge = -1
		} else {
			c.MaxAge = max(int(s.End-now.Unix()), 1)
		}
		cookies = append(cookies, c)
	}
	return cookies, nil
}

// cookie is not readable by scripts, and is sent along when people follow links here
// but not with what other sites post.
func (l *Login) cookie(name, value string, secure bool) *http.Cookie {
	return &http.Cookie{Name: l.name + name, Value: value, Path: "/", HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode}
}

// Attempt is a login that has begun. It is kept in a cookie of its own, so that it can
// only be completed by the browser that began it.
type Attempt struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
	Return   string `json:"r"`
	Until    int64  `json:"u"`
}

// Begin returns the cookie of an attempt. Several may go on in one browser.
func (l *Login) Begin(a *Attempt, secure bool, lasts time.Duration) (*http.Cookie, error) {
	sealed, err := l.seal("attempt", a)
	c := l.cookie("_a"+a.State[:8], sealed, secure)
	c.MaxAge = int(lasts / time.Second)
	return c, err
}

// Attempt returns the attempt with this state, and the cookie that ends it.
func (l *Login) Attempt(r *http.Request, state string, now time.Time) (*Attempt, *http.Cookie, error) {
	if len(state) < 8 {
		return nil, nil, errors.New("the provider's answer has no state")
	}
	c, err := r.Cookie(l.name + "_a" + state[:8])
	if err != nil {
		return nil, nil, errors.New("this browser has not begun this login, or has completed it already")
	}
	a := &Attempt{}
	if err := l.open("attempt", c.Value, a); err != nil || a.State != state || now.Unix() > a.Until {
		return nil, nil, errors.New("the login was begun elsewhere or too long ago")
	}
	end := l.cookie("_a"+state[:8], "", r.TLS != nil)
	end.MaxAge = -1
	return a, end, nil
}

// seal encrypts a value for one purpose.
func (l *Login) seal(purpose string, v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, l.aead.NonceSize(), l.aead.NonceSize()+len(text)+l.aead.Overhead())
	rand.Read(nonce)
	return base64.RawURLEncoding.EncodeToString(l.aead.Seal(nonce, nonce, text, []byte(purpose))), nil
}

func (l *Login) open(purpose, sealed string, into any) error {
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil || len(raw) < l.aead.NonceSize() {
		return errors.New("the cookie is damaged")
	}
	n := l.aead.NonceSize()
	text, err := l.aead.Open(nil, raw[:n], raw[n:], []byte(purpose))
	if err != nil {
		return errors.New("the cookie was not made here")
	}
	return json.Unmarshal(text, into)
}

// DropCookies returns a Cookie field without the login's own: backends get no part of
// it.
func (l *Login) DropCookies(header string) string {
	if !strings.Contains(header, l.name) {
		return header
	}
	var rest []string
	for pair := range strings.SplitSeq(header, ";") {
		if pair = strings.TrimSpace(pair); pair != "" && !strings.HasPrefix(pair, l.name+"_") {
			rest = append(rest, pair)
		}
	}
	return strings.Join(rest, "; ")
}

func (l *Login) governed() []string {
	names := []string{}
	for _, f := range l.Tokens.ClaimFields {
		names = append(names, f.Name)
	}
	if l.AccessTokenField != "" {
		names = append(names, l.AccessTokenField)
	}
	return names
}

// Verify checks an ID token that the provider gave for an attempt or for a renewal,
// and returns its claims. nonce is the attempt's, or "".
func (l *Login) Verify(token, nonce string, now time.Time) (map[string]any, Wait, error) {
	id, wait, err := l.Tokens.verify(token, now, true)
	if err != nil || wait != nil {
		return nil, wait, err
	}
	if said, _ := id.Claims["nonce"].(string); nonce != "" && said != nonce {
		return nil, nil, errors.New("the ID token was made for another login")
	}
	return id.Claims, nil, nil
}
