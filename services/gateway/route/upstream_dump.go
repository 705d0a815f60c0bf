package route

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"
)

// Dump writes for people what differs from the defaults.
func (p *UpstreamPolicy) Dump(w io.Writer, indent string) {
	say := func(wanted bool, format string, args ...any) {
		if wanted {
			fmt.Fprintf(w, indent+format+"\n", args...)
		}
	}
	say(p.Source != "", "policy %s", p.Source)
	say(p.Balance.Method != LeastRequest, "balance %s", &p.Balance)
	say(p.Session != nil, "session %s", p.Session)
	say(p.SlowStart > 0, "slow start %s", p.SlowStart)
	if l := p.Limit; l != nil {
		say(true, "%d requests at an endpoint, %d wait for up to %s", l.PerEndpoint, l.Waiting, l.Patience)
	}
	for _, t := range []struct {
		name string
		d    time.Duration
	}{{"connect", p.ConnectTimeout}, {"first byte", p.FirstByteTimeout}, {"idle", p.IdleTimeout}} {
		say(t.d > 0, "%s timeout %s", t.name, t.d)
	}
	say(p.Retry != nil, "retry %s", p.Retry)
	say(p.Budget != RetryBudget{}, "retry budget %d%% and %d/s", p.Budget.Percent, p.Budget.MinPerSecond)
	say(p.Ejection != Ejection{}, "ejection %s", &p.Ejection)
	say(p.Health != nil, "health check %s", p.Health)
}

func (b *Balance) String() string {
	switch b.Method {
	case RoundRobin:
		return "round robin"
	case ConsistentHash:
		keys := make([]string, len(b.Keys))
		for i, k := range b.Keys {
			keys[i] = k.String()
		}
		return fmt.Sprintf("by hash of %s, load to %d%%", strings.Join(keys, " and "), cmp.Or(b.MaxLoad, DefaultMaxLoad))
	}
	return "least request"
}

func (k HashKey) String() string {
	return strings.TrimSpace([...]string{"client address", "header", "cookie", "query parameter", "host", "path"}[k.Source] + " " + k.Name)
}

func (s *Session) String() string {
	text := "by cookie " + s.Name
	if s.InHeader {
		text = "by header " + s.Name
	}
	add := func(wanted bool, format string, arg any) {
		if wanted {
			text += fmt.Sprintf(format, arg)
		}
	}
	add(s.Absolute > 0, ", ends after %s", s.Absolute)
	add(s.Permanent, ", permanent%s", "")
	add(s.Path != "", ", path %s", s.Path)
	add(s.Domain != "", ", domain %s", s.Domain)
	add(s.SameSite != "", ", same site %s", s.SameSite)
	add(s.Secure, ", secure%s", "")
	return text
}

func (r *Retry) String() string {
	return fmt.Sprintf("attempts=%d codes=%v backoff=%s", r.Attempts, r.Codes, r.Backoff)
}

func (e *Ejection) String() string {
	return fmt.Sprintf("connect=%d gateway-error=%d server-error=%d base=%s max=%s share=%d%%",
		e.ConnectFailures, e.GatewayErrors, e.ServerErrors, e.Base, e.Max, e.MaxPercent)
}

func (h *HealthCheck) String() string {
	kind := [...]string{"HTTP", "gRPC", "TCP"}[h.Kind]
	return fmt.Sprintf("%s path=%q host=%q service=%q statuses=%v port=%d interval=%s timeout=%s healthy=%d unhealthy=%d panic=%d%%",
		kind, h.Path, h.Host, h.Service, h.Statuses, h.Port, h.Interval, h.Timeout, h.Healthy, h.Unhealthy, h.Panic)
}
