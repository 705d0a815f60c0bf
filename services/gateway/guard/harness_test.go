package guard

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// noon is when all tests happen that do not say otherwise.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fields are the header and the query of a request, in the form "Name: value".
type fields struct {
	header []string
	query  string
}

func (f fields) Field(name string) (value string, count int) {
	for _, line := range f.header {
		if n, v, _ := strings.Cut(line, ": "); strings.EqualFold(n, name) {
			if count++; count == 1 {
				value = v
			}
		}
	}
	return value, count
}

func (f fields) Parameter(name string) (string, int) { return Parameter(f.query, name) }

func request(header ...string) *Request {
	return &Request{
		Method: "GET", Host: "shop.example.com", Path: "/", Client: netip.MustParseAddr("192.0.2.1"),
		Namespace: "shop", Fields: fields{header: header}, Now: noon,
	}
}

// adopted makes rules ready with a Keeper of their own.
func adopted(t *testing.T, r *Rules) *Rules {
	t.Helper()
	k := NewKeeper(KeeperConfig{Now: func() time.Time { return noon }})
	t.Cleanup(k.Close)
	k.Adopt([]*Rules{r})
	return r
}

// ask decides about one request and waits where that helps.
func (r *Rules) ask(t *testing.T, q *Request) (*Identity, *Refusal) {
	t.Helper()
	p := &Pass{}
	v := r.Admit(q, p)
	for range 2 {
		if v == Elsewhere && p.Wait != nil {
			p.Wait(t.Context())
			v = r.Admit(q, p)
		}
	}
	switch {
	case v == Admitted:
		return p.Identity, nil
	case v == Refused && p.Refusal != nil:
		return nil, p.Refusal
	}
	t.Fatalf("verdict %v with refusal %v", v, p.Refusal)
	return nil, nil
}

// issuer signs tokens.
type issuer struct {
	rsa     *rsa.PrivateKey
	ec      *ecdsa.PrivateKey
	ed      ed25519.PrivateKey
	id      string
	another *rsa.PrivateKey
}

func newIssuer(t testing.TB, id string) *issuer {
	t.Helper()
	i := &issuer{id: id}
	var err error
	if i.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if i.another, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if i.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if _, i.ed, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	return i
}

// jwks publishes the public keys.
func (i *issuer) jwks() []byte {
	text, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &i.rsa.PublicKey, KeyID: i.id + "-rsa", Algorithm: "RS256", Use: "sig"},
		{Key: &i.ec.PublicKey, KeyID: i.id + "-ec", Algorithm: "ES256", Use: "sig"},
		{Key: i.ed.Public(), KeyID: i.id + "-ed", Algorithm: "EdDSA", Use: "sig"},
	}})
	return text
}

func (i *issuer) keySet(t testing.TB) *KeySet {
	t.Helper()
	set, err := NewKeySet(i.jwks())
	if err != nil {
		t.Fatal(err)
	}
	return set
}

type claims = map[string]any

// standard are claims that are right, with changes; nil removes one.
func standard(changes claims) claims {
	c := claims{"iss": "https://id.example.com", "aud": "shop", "sub": "anna", "exp": noon.Add(time.Hour).Unix(), "groups": []string{"staff"}}
	for k, v := range changes {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

func sign(t testing.TB, algorithm jose.SignatureAlgorithm, key any, id string, c claims) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if id != "" {
		options = options.WithHeader("kid", id)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(c).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (i *issuer) token(t testing.TB, changes claims) string {
	t.Helper()
	return sign(t, jose.RS256, i.rsa, i.id+"-rsa", standard(changes))
}

// forged has the given header and the claims, with a signature that is just text.
func forged(header string, c claims, signature string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	body, _ := json.Marshal(c)
	return b64([]byte(header)) + "." + b64(body) + "." + b64([]byte(signature))
}

func tokens(set *KeySet) *Tokens {
	t := &Tokens{
		Name: "main", Issuer: "https://id.example.com", Audiences: []string{"shop"}, Skew: 30 * time.Second, Keys: set,
		Forward: true, ClientField: "X-Client", ClaimFields: []ClaimField{{"email", "X-Email"}, {"realm.roles", "X-Roles"}},
	}
	t.Seal()
	return t
}

func authenticated(a *Authentication) *Rules {
	a.Policy = "AccessPolicy/shop/test"
	a.Seal()
	return &Rules{Authentication: a}
}

func queryOf(t *testing.T, raw string) fields {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return fields{query: u.RawQuery}
}
