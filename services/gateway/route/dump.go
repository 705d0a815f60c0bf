package route

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Dump writes the table for people: the gateway's admin address shows it, and
// the tests of the translation compare it.
func (t *Table) Dump(w io.Writer) {
	for _, p := range t.Ports() {
		scheme := "http"
		switch {
		case p.Raw:
			scheme = "tcp"
		case p.TLS:
			scheme = "https"
		}
		at := fmt.Sprint(p.Number)
		if p.Address.IsValid() {
			at = p.At().String()
		}
		fmt.Fprintf(w, "port %s %s\n", at, scheme)
		if r := first(p.streams); r != nil {
			t.dumpRule(w, r)
		}
		p.certs.each(func(host string, certs []*Certificate) {
			for _, c := range certs {
				fmt.Fprintf(w, "  certificate %s from %s\n", host, c.Source)
			}
		})
		p.listeners.each(func(host string, l *listener) {
			fmt.Fprintf(w, "  listener %s%s\n", host, l.secure)
			l.streams.each(func(host string, list []stream) {
				fmt.Fprintf(w, "    server name %s\n", host)
				t.dumpRule(w, first(list))
			})
			l.hosts.each(func(host string, v *virtualHost) {
				fmt.Fprintf(w, "    host %s\n", host)
				t.dumpHost(w, v)
			})
		})
	}
}

func (t *Table) dumpHost(w io.Writer, v *virtualHost) {
	var entries []entry
	for _, path := range v.exact.names(strings.Compare) {
		entries = append(entries, v.exact.get(path)...)
	}
	entries = append(entries, v.regex...)
	longestFirst := func(a, b string) int {
		if d := strings.Count(b, "/") - strings.Count(a, "/"); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	}
	for _, path := range v.prefix.names(longestFirst) {
		entries = append(entries, v.prefix.get(path)...)
	}
	for _, e := range entries {
		fmt.Fprintf(w, "      %s\n", e.match)
		t.dumpRule(w, e.rule)
	}
}

func (m Match) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", m.Kind, m.Path)
	if m.Method != "" {
		fmt.Fprintf(&b, " method=%s", m.Method)
	}
	for _, h := range m.Headers {
		fmt.Fprintf(&b, " header:%s", h)
	}
	for _, q := range m.Query {
		fmt.Fprintf(&b, " query:%s", q)
	}
	return b.String()
}

func (m ValueMatch) String() string {
	if m.Pattern != nil {
		return m.Name + "~" + m.Value
	}
	return m.Name + "=" + m.Value
}

func (t *Table) dumpRule(w io.Writer, r *Rule) {
	const indent = "        "
	fmt.Fprintf(w, "%s-> %s\n", indent, r.Route)
	for _, t := range []struct {
		name string
		d    time.Duration
	}{{"request timeout", r.RequestTimeout}, {"backend timeout", r.BackendTimeout}, {"connect timeout", r.ConnectTimeout}, {"first byte timeout", r.FirstByteTimeout}, {"idle timeout", r.IdleTimeout}} {
		if t.d != 0 {
			fmt.Fprintf(w, "%s%s %s\n", indent, t.name, t.d)
		}
	}
	if r.Invalid != "" {
		fmt.Fprintf(w, "%sINVALID: %s\n", indent, r.Invalid)
	}
	if rules := t.guards[r.Guard]; rules != nil {
		rules.Dump(w, indent+"guard ")
	}
	r.Filters.dump(w, indent)
	if d := r.Redirect; d != nil && d.Location != "" {
		fmt.Fprintf(w, "%sredirect %d to %s\n", indent, d.Status, d.Location)
	} else if d != nil {
		fmt.Fprintf(w, "%sredirect %d scheme=%q host=%q port=%d path=%s\n", indent, d.Status, d.Scheme, d.Host, d.Port, d.Path)
	}
	if c := r.CORS; c != nil {
		fmt.Fprintf(w, "%scors origins=%v credentials=%v methods=%v headers=%v expose=%v max-age=%ds\n", indent, c.Origins, c.Credentials, c.Methods, c.Headers, c.Expose, c.MaxAge)
	}
	if r.Balance != nil {
		fmt.Fprintf(w, "%sbalance %s\n", indent, r.Balance)
	}
	if r.Session != nil {
		fmt.Fprintf(w, "%ssession %s\n", indent, r.Session)
	}
	if r.Retry != nil {
		fmt.Fprintf(w, "%sretry %s\n", indent, r.Retry)
	}
	for _, m := range r.Mirrors {
		fmt.Fprintf(w, "%smirror %s %d of %d", indent, m.Service, m.Share, m.Outof)
		if m.Invalid != "" {
			fmt.Fprintf(w, " INVALID: %s", m.Invalid)
		}
		fmt.Fprintln(w)
	}
	for _, b := range r.Backends {
		fmt.Fprintf(w, "%sbackend %s weight %d", indent, b.Service, b.Weight)
		if b.HTTP2 {
			fmt.Fprint(w, " HTTP/2")
		}
		if b.TLS != nil {
			fmt.Fprintf(w, " %s", b.TLS)
		}
		if b.Invalid != "" {
			fmt.Fprintf(w, " INVALID: %s", b.Invalid)
		}
		fmt.Fprintln(w)
		b.Filters.dump(w, indent+"  ")
	}
}

func (f *Filters) dump(w io.Writer, indent string) {
	f.Request.dump(w, indent+"request")
	f.Response.dump(w, indent+"response")
	if f.Rewrite != nil {
		fmt.Fprintf(w, "%srewrite host=%q path=%s\n", indent, f.Rewrite.Host, f.Rewrite.Path)
	}
}

func (h *HeaderChange) dump(w io.Writer, subject string) {
	if h == nil {
		return
	}
	for _, s := range h.Set {
		fmt.Fprintf(w, "%s header set %s: %s\n", subject, s.Name, s.Value)
	}
	for _, a := range h.Add {
		fmt.Fprintf(w, "%s header add %s: %s\n", subject, a.Name, a.Value)
	}
	for _, r := range h.Remove {
		fmt.Fprintf(w, "%s header remove %s\n", subject, r)
	}
}

func (p *PathChange) String() string {
	switch {
	case p == nil:
		return "(same)"
	case p.Pattern != nil:
		return p.Value + " of " + p.Pattern.String()
	case p.Full:
		return p.Value
	}
	return p.Value + "(rest)"
}

func (s ServicePort) String() string {
	return fmt.Sprintf("%s/%s:%d", s.Namespace, s.Name, s.Port)
}
