package guard

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// What a decision costs on the event loop.
func BenchmarkAdmit(b *testing.B) {
	i := newIssuer(b, "k1")
	keys := &Keys{Headers: []string{"X-API-Key"}}
	for n := range 1000 {
		if err := keys.Add(time.Duration(n).String(), "key "+time.Duration(n).String(), "X-Client"); err != nil {
			b.Fatal(err)
		}
	}
	set, err := NewKeySet(i.jwks())
	if err != nil {
		b.Fatal(err)
	}
	expression, err := Compile(`claims.sub == "anna" && request.method == "GET"`)
	if err != nil {
		b.Fatal(err)
	}
	jwt := func() *Rules { return authenticated(&Authentication{Tokens: []*Tokens{tokens(set)}}) }
	byExpression := jwt()
	byExpression.Authorization = &Authorization{Rules: []Permission{{Expression: expression}}}
	both := authenticated(&Authentication{Keys: keys})
	both.Limits = []*Limit{{ID: "burst", Name: "burst", Requests: 1e9, Window: time.Second, Burst: 1e9, By: ByClient}, {ID: "daily", Name: "daily", Requests: 1e9, Calendar: Day, By: ByClient}}
	token := "Authorization: Bearer " + i.token(b, nil)
	for _, c := range []struct {
		name   string
		rules  *Rules
		header string
	}{
		{"address", &Rules{Addresses: &Addresses{Deny: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}, ""},
		{"limit", &Rules{Limits: []*Limit{{ID: "a", Name: "a", Requests: 1e9, Window: time.Second, Burst: 1e9}}}, ""},
		{"quota", &Rules{Limits: []*Limit{{ID: "a", Name: "a", Requests: 4e9, Calendar: Day, By: ByAddress}}}, ""},
		{"apiKey", authenticated(&Authentication{Keys: keys}), "X-API-Key: key 7ns"},
		{"apiKey+limit+quota", both, "X-API-Key: key 7ns"},
		{"jwt remembered", jwt(), token},
		{"jwt remembered+expression", byExpression, token},
	} {
		b.Run(c.name, func(b *testing.B) {
			k := NewKeeper(KeeperConfig{Now: func() time.Time { return noon }})
			k.Adopt([]*Rules{c.rules})
			q := request(c.header)
			p := &Pass{}
			var out []byte
			b.ReportAllocs()
			for b.Loop() {
				p.Reset()
				if c.rules.Admit(q, p) != Admitted {
					b.Fatal(p.Refusal)
				}
				out = p.AppendStanding(out[:0])
			}
		})
	}
}

// What it costs the event loop to see a token for the first time, by how it is signed.
func BenchmarkVerify(b *testing.B) {
	rsaKey := func(bits int) func() (any, any) {
		return func() (any, any) {
			k, err := rsa.GenerateKey(rand.Reader, bits)
			if err != nil {
				b.Fatal(err)
			}
			return k, k.Public()
		}
	}
	curve := func(c elliptic.Curve) func() (any, any) {
		return func() (any, any) {
			k, err := ecdsa.GenerateKey(c, rand.Reader)
			if err != nil {
				b.Fatal(err)
			}
			return k, k.Public()
		}
	}
	for _, c := range []struct {
		name      string
		algorithm jose.SignatureAlgorithm
		key       func() (private, public any)
	}{
		{"RS256", jose.RS256, rsaKey(2048)}, {"RS256 of 4096 bits", jose.RS256, rsaKey(4096)}, {"PS256", jose.PS256, rsaKey(2048)},
		{"ES256", jose.ES256, curve(elliptic.P256())}, {"ES384", jose.ES384, curve(elliptic.P384())}, {"ES512", jose.ES512, curve(elliptic.P521())},
		{"EdDSA", jose.EdDSA, func() (any, any) { public, private, _ := ed25519.GenerateKey(nil); return private, public }},
	} {
		b.Run(c.name, func(b *testing.B) {
			private, public := c.key()
			jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "k", Algorithm: string(c.algorithm)}}})
			if err != nil {
				b.Fatal(err)
			}
			set, err := NewKeySet(jwks)
			if err != nil {
				b.Fatal(err)
			}
			j, token := tokens(set), sign(b, c.algorithm, private, "k", standard(nil))
			for b.Loop() {
				j.verified = newRecent[*Identity](2)
				if _, _, err := j.verify(token, noon, true); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
