package guard

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Tokens as they should be, and the ways to forge one.
func TestWhichTokensAreAccepted(t *testing.T) {
	i := newIssuer(t, "k1")
	r := adopted(t, authenticated(&Authentication{ClientField: "X-Client", Tokens: []*Tokens{tokens(i.keySet(t))}}))
	der, err := x509.MarshalPKIXPublicKey(&i.rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	good := i.token(t, nil)
	parts := strings.Split(good, ".")
	other := strings.Split(i.token(t, claims{"sub": "root"}), ".")
	embedded := func() string { // the token brings the key that it is signed with
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: i.another, KeyID: "k1-rsa"}}, &jose.SignerOptions{EmbedJWK: true})
		if err != nil {
			t.Fatal(err)
		}
		o, err := signer.Sign([]byte(`{"iss":"https://id.example.com","aud":"shop","sub":"root","exp":99999999999}`))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := o.CompactSerialize()
		return text
	}
	for _, c := range []struct{ name, token, reason string }{
		{"RS256", good, ""},
		{"ES256", sign(t, jose.ES256, i.ec, "k1-ec", standard(nil)), ""},
		{"EdDSA", sign(t, jose.EdDSA, i.ed, "k1-ed", standard(nil)), ""},
		{"without key ID", sign(t, jose.ES256, i.ec, "", standard(nil)), ""},
		{"list of audiences", i.token(t, claims{"aud": []string{"other", "shop"}}), ""},
		{"expired within the skew", i.token(t, claims{"exp": noon.Add(-20 * time.Second).Unix()}), ""},

		{"expired", i.token(t, claims{"exp": noon.Add(-time.Minute).Unix()}), "expired"},
		{"without expiry", i.token(t, claims{"exp": nil}), "when it expires"},
		{"expiry that is text", i.token(t, claims{"exp": "tomorrow"}), "when it expires"},
		{"not valid yet", i.token(t, claims{"nbf": noon.Add(time.Hour).Unix()}), "not valid yet"},
		{"issued in the future", i.token(t, claims{"iat": noon.Add(time.Hour).Unix()}), "not valid yet"},
		{"other issuer", i.token(t, claims{"iss": "https://evil.example.com"}), "no issuer"},
		{"no issuer", i.token(t, claims{"iss": nil}), "no issuer"},
		{"other audience", i.token(t, claims{"aud": "bank"}), "another audience"},
		{"no audience", i.token(t, claims{"aud": nil}), "another audience"},
		{"alg none", forged(`{"alg":"none"}`, standard(nil), ""), "no JSON Web Token"},
		{"alg None", forged(`{"alg":"None","kid":"k1-rsa"}`, standard(nil), "x"), "no JSON Web Token"},
		{"no alg", forged(`{"kid":"k1-rsa"}`, standard(nil), "x"), "no JSON Web Token"},
		{"HS256 with the public key (PEM)", sign(t, jose.HS256, public, "k1-rsa", standard(nil)), "no JSON Web Token"},
		{"HS256 with the public key (DER)", sign(t, jose.HS256, der, "k1-rsa", standard(nil)), "no JSON Web Token"},
		{"another algorithm of the same key", sign(t, jose.PS256, i.rsa, "k1-rsa", standard(nil)), "none of its issuer's"},
		{"key of another kind", sign(t, jose.ES256, i.ec, "k1-rsa", standard(nil)), "none of its issuer's"},
		{"somebody else's key under the same ID", sign(t, jose.RS256, i.another, "k1-rsa", standard(nil)), "signature is wrong"},
		{"key inside the token", embedded(), "signature is wrong"},
		{"kid is a path", sign(t, jose.RS256, i.another, "../../dev/null", standard(nil)), "none of its issuer's"},
		{"kid is SQL", sign(t, jose.RS256, i.another, "' UNION SELECT 'x", standard(nil)), "none of its issuer's"},
		{"jku of the attacker", forged(`{"alg":"RS256","kid":"k1-rsa","jku":"https://evil.example.com"}`, standard(nil), "x"), "signature is wrong"},
		{"crit that nobody knows", forged(`{"alg":"RS256","kid":"k1-rsa","crit":["x"],"x":1}`, standard(nil), "x"), ""},
		{"claims exchanged", parts[0] + "." + other[1] + "." + parts[2], "signature is wrong"},
		{"no signature", parts[0] + "." + parts[1] + ".", ""},
		{"two parts", parts[0] + "." + parts[1], "no JSON Web Token"},
		{"empty", "", "no JSON Web Token"},
		{"too long", strings.Repeat("a", maxCredential+1), "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, refused := r.ask(t, request("Authorization: Bearer "+c.token))
			wrong := c.reason != "" || c.name == "no signature" || strings.HasPrefix(c.name, "crit")
			switch {
			case !wrong && (refused != nil || id.Client != "anna"):
				t.Errorf("refused: %+v", refused)
			case wrong && refused == nil:
				t.Errorf("accepted as %q", id.Client)
			case wrong && (refused.Status != 401 || !strings.Contains(refused.Detail, c.reason) || !strings.Contains(refused.Fields, "WWW-Authenticate: Bearer")):
				t.Errorf("refused with %+v, want a reason with %q", refused, c.reason)
			}
		})
	}
}

func TestATokenIsRememberedUntilItExpires(t *testing.T) {
	i := newIssuer(t, "k1")
	j := tokens(i.keySet(t))
	r := adopted(t, authenticated(&Authentication{Tokens: []*Tokens{j}}))
	q := request("Authorization: Bearer " + i.token(t, nil))
	first, _ := r.ask(t, q)
	if again, _ := r.ask(t, q); again != first {
		t.Error("the token was verified twice")
	}
	q.Now = noon.Add(time.Hour + time.Minute)
	if _, refused := r.ask(t, q); refused == nil {
		t.Error("a remembered token outlives its expiry")
	}
}

func TestRememberedTokensAreBounded(t *testing.T) {
	r := newRecent[int](100)
	for n := range 10_000 {
		r.put(sum256(strings.Repeat("x", n%300)+time.Duration(n).String()), n)
	}
	if r.len() > 100 {
		t.Errorf("%d are remembered, want at most 100", r.len())
	}
}

func TestClaimsBecomeHeadersThatNobodyElseCanSet(t *testing.T) {
	i := newIssuer(t, "k1")
	r := adopted(t, authenticated(&Authentication{Anonymous: true, ClientField: "X-Client", Tokens: []*Tokens{tokens(i.keySet(t))}}))
	id, _ := r.ask(t, request("Authorization: Bearer "+i.token(t, claims{
		"email": "anna@example.com\r\nX-Client: root", "realm": claims{"roles": []string{"a", "b"}},
	})))
	if got, want := string(id.Header), "X-Client: anna\r\nX-Roles: a,b\r\n"; got != want {
		t.Errorf("backends get %q, want %q: a claim with a line end is left out", got, want)
	}
	for _, name := range []string{"X-Client", "x-client", "X_Client", "x_CLIENT", "X-Email", "X-Roles"} {
		if !r.Drops([]byte(name)) {
			t.Errorf("a client can send %s itself", name)
		}
	}
	if r.Drops([]byte("X-Clients")) || r.Drops([]byte("Authorization")) {
		t.Error("fields are dropped that are the client's own")
	}
}

// provider publishes keys that can be exchanged.
type provider struct {
	mu    sync.Mutex
	text  []byte
	err   error
	asked int
}

func (p *provider) fetch(context.Context, string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	return p.text, p.err
}

func (p *provider) set(text []byte, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text, p.err = text, err
}

func (p *provider) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func TestKeysAreExchangedWhileTokensAreInUse(t *testing.T) {
	before, after := newIssuer(t, "k1"), newIssuer(t, "k2")
	synctest.Test(t, func(t *testing.T) {
		p := &provider{text: before.jwks()}
		set := NewRemoteKeySet("https://id.example.com/keys", 5*time.Minute)
		r := authenticated(&Authentication{Tokens: []*Tokens{tokens(set)}})
		k := NewKeeper(KeeperConfig{Fetch: p.fetch})
		defer k.Close()
		k.Adopt([]*Rules{r})
		at := func(token string) *Request {
			q := request("Authorization: Bearer " + token)
			q.Now = time.Now()
			return q
		}
		times := claims{"exp": time.Now().Add(time.Hour).Unix()}
		old, fresh := before.token(t, times), after.token(t, times)
		if id, refused := r.ask(t, at(old)); id == nil {
			t.Fatalf("the first request does not wait for the keys: %+v", refused)
		}
		time.Sleep(time.Minute)
		p.set(after.jwks(), nil)
		if id, refused := r.ask(t, at(fresh)); id == nil {
			t.Fatalf("a token with a new key does not have the keys read again: %+v", refused)
		}
		if _, refused := r.ask(t, at(old)); refused == nil {
			t.Error("a remembered token outlives its key")
		}
		asked := p.count()
		for range 100 {
			r.ask(t, at(sign(t, jose.RS256, before.another, "made-up", standard(times))))
		}
		if n := p.count() - asked; n > 1 {
			t.Errorf("100 tokens with made-up keys had the keys read %d times", n)
		}
		p.set(nil, errors.New("down"))
		time.Sleep(20 * time.Minute)
		if id, _ := r.ask(t, at(fresh)); id == nil {
			t.Error("keys that cannot be read again are forgotten")
		}
		if set.Problem() == nil {
			t.Error("nobody says that the keys cannot be read")
		}
	})
}

func TestWithoutKeysNothingIsLetThrough(t *testing.T) {
	i := newIssuer(t, "k1")
	synctest.Test(t, func(t *testing.T) {
		p := &provider{err: errors.New("connection refused")}
		r := authenticated(&Authentication{Anonymous: true, Tokens: []*Tokens{tokens(NewRemoteKeySet("https://id.example.com/keys", time.Minute))}})
		k := NewKeeper(KeeperConfig{Fetch: p.fetch})
		defer k.Close()
		k.Adopt([]*Rules{r})
		q := request("Authorization: Bearer " + i.token(t, claims{"exp": time.Now().Add(time.Hour).Unix()}))
		q.Now = time.Now()
		if _, refused := r.ask(t, q); refused == nil || refused.Status != 503 {
			t.Errorf("answered with %+v, want 503", refused)
		}
	})
}

// A signature that takes milliseconds to verify would hold up everybody else on an event loop.
func TestSlowSignaturesAreVerifiedElsewhere(t *testing.T) {
	for _, c := range []struct {
		curve     elliptic.Curve
		algorithm jose.SignatureAlgorithm
		first     Verdict
	}{{elliptic.P256(), jose.ES256, Admitted}, {elliptic.P384(), jose.ES384, Elsewhere}, {elliptic.P521(), jose.ES512, Elsewhere}} {
		key, err := ecdsa.GenerateKey(c.curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k"}}})
		if err != nil {
			t.Fatal(err)
		}
		set, err := NewKeySet(jwks)
		if err != nil {
			t.Fatal(err)
		}
		r := adopted(t, authenticated(&Authentication{Tokens: []*Tokens{tokens(set)}}))
		q := request("Authorization: Bearer " + sign(t, c.algorithm, key, "k", standard(nil)))
		if v := r.Admit(q, &Pass{}); v != c.first {
			t.Errorf("%s on the event loop: %v, want %v", c.algorithm, v, c.first)
		}
		forged := request("Authorization: Bearer " + sign(t, c.algorithm, key, "k", standard(nil)) + "A")
		for _, mayWait := range []bool{true, false} {
			q.MayWait, forged.MayWait = mayWait, true
			if v := r.Admit(q, &Pass{}); v != Admitted {
				t.Errorf("%s, once it may wait, and when it is remembered: %v", c.algorithm, v)
			}
			if v := r.Admit(forged, &Pass{}); v != Refused {
				t.Errorf("%s with another signature: %v", c.algorithm, v)
			}
		}
	}
}
