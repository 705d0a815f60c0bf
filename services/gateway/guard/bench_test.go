package guard

import (
	"net/netip"
	"testing"
	"time"
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
	b.Run("jwt verified RS256", func(b *testing.B) {
		j := tokens(set)
		for b.Loop() {
			j.verified = newRecent[*Identity](2)
			if _, _, err := j.verify(token[len("Authorization: Bearer "):], noon); err != nil {
				b.Fatal(err)
			}
		}
	})
}
