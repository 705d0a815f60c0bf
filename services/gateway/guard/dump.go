package guard

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Dump writes what the rules demand, for people and for tests. It shows no secrets.
func (r *Rules) Dump(w io.Writer, indent string) {
	say := func(format string, args ...any) { fmt.Fprintf(w, indent+format+"\n", args...) }
	if r.Broken != "" {
		say("BROKEN: %s", r.Broken)
	}
	if a := r.Addresses; a != nil {
		say("addresses allow=%v deny=%v (%s)", a.Allow, a.Deny, a.Policy)
	}
	if a := r.Authentication; a != nil {
		say("authentication anonymous=%v client-header=%q (%s)", a.Anonymous, a.ClientField, a.Policy)
		if k := a.Keys; k != nil {
			var clients []string
			for _, id := range k.clients {
				clients = append(clients, id.Client)
			}
			slices.Sort(clients)
			say("  api keys in %s of %s", k.places(), strings.Join(clients, ", "))
		}
		for _, t := range a.Tokens {
			say("  tokens of %q for %v", t.Issuer, t.Audiences)
		}
		if a.Basic != nil {
			say("  basic with %d users", len(a.Basic.users))
		}
	}
	if a := r.Authorization; a != nil {
		say("authorization by %d rules (%s)", len(a.Rules), a.Policy)
	}
	for _, l := range r.Limits {
		say("limit %s by %s: %s (%s)", l.Name, strings.TrimSpace(l.By.String()+" "+l.Named), l.amount(), l.Policy)
	}
	if m := r.MaxBody; m != nil {
		say("body at most %d bytes (%s)", m.Bytes, m.Policy)
	}
	if s := r.Shape; s != nil {
		say("shape headers=%v query=%v schema=%v up to %d bytes (%s)", s.Headers, s.Parameters, s.HasSchema(), s.MaxBody, s.Policy)
	}
	if h := r.Harden; h != nil {
		say("security headers %q (%s)", h.secure, h.Policy)
	}
	if c := r.Compress; c != nil {
		say("compression by %v of %v from %d bytes private=%v", c.Algorithms, c.Types, c.MinSize, c.Private)
	}
	if c := r.Cache; c != nil {
		say("cache up to %d bytes each", c.MaxObject)
	}
	if a := r.AccessLog; a != nil {
		say("access log %d of 10000, errors %v", a.Sampled, a.Errors)
	}
	if a := r.Audit; a != nil {
		say("audit all=%v writes=%v refusals=%v", a.All, a.Writes, a.Refusals)
	}
}

func (b By) String() string {
	return [...]string{"address", "host", "tenant", "header", "route", "client", "claim"}[b]
}

func (c Calendar) String() string { return [...]string{"", "hour", "day", "month"}[c] }

// per names the time in which a limit's requests are given back.
func (l *Limit) per() string {
	if l.Calendar != NoCalendar {
		return l.Calendar.String()
	}
	if l.Window == time.Second {
		return "second"
	}
	return l.Window.String()
}
