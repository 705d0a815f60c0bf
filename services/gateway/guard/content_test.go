package guard

import (
	"strings"
	"testing"
)

func TestTheShapeOfRequests(t *testing.T) {
	s := &Shape{Policy: "TrafficPolicy/shop/test", Headers: []string{"X-Shop"}, Parameters: []string{"v"}, MaxBody: 1000}
	if err := s.SetSchema([]byte(`{"type":"object","required":["name"],"properties":{"name":{"type":"string","maxLength":5},"n":{"type":"integer"}},"additionalProperties":false}`)); err != nil {
		t.Fatal(err)
	}
	r := adopted(t, &Rules{Shape: s})
	for _, c := range []struct {
		name   string
		fields fields
		length int64
		status int
	}{
		{"right", fields{[]string{"X-Shop: a", "Content-Type: application/json; charset=utf-8"}, "v=1"}, 10, 0},
		{"another kind of JSON", fields{[]string{"X-Shop: a", "Content-Type: application/merge-patch+json"}, "v=1"}, 10, 0},
		{"no body", fields{[]string{"X-Shop: a"}, "v=1"}, 0, 0},
		{"no header", fields{[]string{"Content-Type: application/json"}, "v=1"}, 10, 400},
		{"no parameter", fields{[]string{"X-Shop: a", "Content-Type: application/json"}, ""}, 10, 400},
		{"too long", fields{[]string{"X-Shop: a", "Content-Type: application/json"}, "v=1"}, 1001, 413},
		{"no JSON", fields{[]string{"X-Shop: a", "Content-Type: text/plain"}, "v=1"}, 10, 415},
		{"no type", fields{[]string{"X-Shop: a"}, "v=1"}, 10, 415},
	} {
		q := request()
		q.Fields, q.Length, q.MayWait = c.fields, c.length, true
		_, refused := r.ask(t, q)
		if c.status == 0 && refused != nil || c.status != 0 && (refused == nil || refused.Status != c.status) {
			t.Errorf("%s: %+v, want status %d", c.name, refused, c.status)
		}
	}
	for body, reason := range map[string]string{
		`{"name":"anna"}`: "", `{"name":"anna","n":3}`: "",
		`{"name":"annabelle"}`: "/name", `{}`: "name", `{"name":1}`: "/name", `{"name":"a","other":1}`: "other",
		`{"name":"anna"`: "not valid JSON", ``: "not valid JSON", `{"name":"a"}{}`: "not valid JSON", `[]`: "object",
		strings.Repeat("[", 100_000): "not valid JSON",
	} {
		refused := s.Body([]byte(body))
		if reason == "" && refused != nil || reason != "" && (refused == nil || refused.Status != 400 || !strings.Contains(refused.Detail, reason)) {
			t.Errorf("%.30q: %+v, want a reason with %q", body, refused, reason)
		}
	}
	for _, wrong := range []string{"", "[]", `{"type":"nothing"}`, `{"$ref":"http://example.com/schema"}`, `{"$ref":"file:///etc/passwd"}`, `{"pattern":"("}`} {
		if err := (&Shape{}).SetSchema([]byte(wrong)); err == nil {
			t.Errorf("%s is taken for a schema", wrong)
		}
	}
}

func TestSecurityHeaders(t *testing.T) {
	h := NewHarden("TrafficPolicy/shop/test", []ClaimField{{"DENY", "X-Frame-Options"}}, []ClaimField{{"max-age=1", "Strict-Transport-Security"}}, []string{"Server"})
	if got := string(h.Header(false)); got != "X-Frame-Options: DENY\r\n" {
		t.Errorf("plain: %q", got)
	}
	if got := string(h.Header(true)); got != "X-Frame-Options: DENY\r\nStrict-Transport-Security: max-age=1\r\n" {
		t.Errorf("over TLS: %q", got)
	}
	for name, want := range map[string]bool{"server": true, "SERVER": true, "x-frame-options": true, "strict-transport-security": true, "Content-Type": false} {
		if h.Drops([]byte(name)) != want {
			t.Errorf("%s is dropped: %v, want %v", name, !want, want)
		}
	}
}

func TestWhatIsLogged(t *testing.T) {
	count := func(a *AccessLog, status int) (n int) {
		for range 10_000 {
			if a.Has(status) {
				n++
			}
		}
		return n
	}
	tenth := &AccessLog{Sampled: 1000, Errors: true}
	if n := count(tenth, 200); n < 800 || n > 1200 {
		t.Errorf("%d of 10,000 are logged, want about 1,000", n)
	}
	if count(tenth, 404) != 10_000 || count(&AccessLog{}, 404) != 0 || count(nil, 200) != 10_000 {
		t.Error("errors are sampled, or nothing is all")
	}
	for _, c := range []struct {
		a       *Audit
		method  string
		refused bool
		want    bool
	}{
		{nil, "POST", true, false}, {&Audit{All: true}, "GET", false, true}, {&Audit{Writes: true}, "GET", false, false},
		{&Audit{Writes: true}, "PATCH", false, true}, {&Audit{Refusals: true}, "GET", true, true}, {&Audit{Refusals: true}, "POST", false, false},
	} {
		if got := c.a.Has(c.method, c.refused); got != c.want {
			t.Errorf("%+v %s refused %v: %v", c.a, c.method, c.refused, got)
		}
	}
}
