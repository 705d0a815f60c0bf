package alertmanager

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

// ask sends a request to the API and returns its answer.
func ask(t *testing.T, m *Manager, method, path, body string) string {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "/api/v2"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return w.Body.String()
}

func silenceOf(name string) string {
	text, _ := json.Marshal(map[string]any{
		"matchers": []map[string]any{{"name": "alertname", "value": name, "isRegex": false, "isEqual": true}},
		"startsAt": time.Now().UTC(), "endsAt": time.Now().Add(time.Hour).UTC(), "createdBy": "me", "comment": "known",
	})
	return string(text)
}

// The predecessor is not closed: what it has acknowledged is on disk already, as after kill -9.
func TestWhatWasAcknowledgedSurvivesTheEnd(t *testing.T) {
	at, sent := endpoint(t)
	dir := t.TempDir()
	hook := Receiver{Name: "hook", Kind: "webhook", Secret: at + "/hook", Resolved: true}
	before := open(t, dir)
	configure(t, before, hook)
	ask(t, before, "POST", "/silences", silenceOf("Quiet"))
	put(t, before, firing("Crash", nil))
	if got := next(t, sent); !strings.Contains(got.body, "Crash") {
		t.Fatalf("told of %s", got.body)
	}
	waitFor(t, func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "alerts"))
		log, _ := os.ReadFile(filepath.Join(dir, "notifications"))
		return strings.Contains(string(text), "Crash") && strings.Contains(string(log), "hook")
	})

	// The copy is what a process finds whose predecessor was killed now.
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	after := open(t, copied)
	configure(t, after, hook)
	if got := ask(t, after, "GET", "/silences", ""); !strings.Contains(got, `"Quiet"`) {
		t.Errorf("silences after the end: %s", got)
	}
	if got := ask(t, after, "GET", "/alerts", ""); !strings.Contains(got, `"Crash"`) {
		t.Errorf("alerts after the end: %s", got)
	}
	put(t, after, firing("Crash", nil), firing("Quiet", nil), firing("Other", nil))
	if got := next(t, sent); !strings.Contains(got.body, "Other") || strings.Contains(got.body, "Crash") {
		t.Errorf("told again after the end: %s", got.body)
	}
	// Its end is told, although it began in another process.
	over := firing("Crash", nil)
	over.EndsAt = time.Now()
	put(t, after, over)
	if got := next(t, sent); !strings.Contains(got.body, `"status":"resolved"`) || !strings.Contains(got.body, "Crash") {
		t.Errorf("told of %s", got.body)
	}
}

func waitFor(t *testing.T, reached func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !reached(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come about")
		}
	}
}

func TestTheWorseOfAnObjectMutesTheRest(t *testing.T) {
	m := open(t, t.TempDir())
	configure(t, m)
	put(t, m, firing("Crash", nil), firing("Slow", model.LabelSet{"severity": "warning"}), firing("Slow", model.LabelSet{"severity": "warning", "pod": "cart-2"}))
	waitFor(t, func() bool { return m.dispatcher.Load() != nil })
	var list []struct {
		Labels map[string]string
		Status struct{ State string }
	}
	waitFor(t, func() bool {
		if err := json.Unmarshal([]byte(ask(t, m, "GET", "/alerts", "")), &list); err != nil {
			t.Fatal(err)
		}
		suppressed := map[string]bool{}
		for _, a := range list {
			suppressed[a.Labels["alertname"]+" "+a.Labels["pod"]] = a.Status.State == "suppressed"
		}
		return suppressed["Slow cart-1"] && !suppressed["Slow cart-2"] && !suppressed["Crash cart-1"]
	})
}

func TestASilenceThatCannotBeWrittenIsNotAcknowledged(t *testing.T) {
	m := open(t, t.TempDir())
	configure(t, m)
	if err := os.RemoveAll(m.Dir); err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/api/v2/silences", strings.NewReader(silenceOf("Quiet")))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	if m.ServeHTTP(w, r); w.Code != http.StatusInternalServerError {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAConfigurationWithAFaultLeavesTheOneBefore(t *testing.T) {
	m := open(t, t.TempDir())
	configure(t, m, Receiver{Name: "hook", Kind: "webhook", Secret: "http://127.0.0.1:1/hook"})
	for what, text := range map[string]string{
		"file":      "route: {receiver: a}\nreceivers:\n- name: a\n  webhook_configs:\n  - url_file: /etc/shadow\n",
		"nested":    "route: {receiver: a}\nreceivers:\n- name: a\n  webhook_configs:\n  - {url: http://x, http_config: {authorization: {\"credentials_file\": /etc/shadow}}}\n",
		"tls":       "route: {receiver: a}\nreceivers:\n- name: a\n  webhook_configs:\n  - {url: http://x, http_config: {tls_config: {ca_file: /etc/shadow}}}\n",
		"templates": "templates: [/etc/*]\nroute: {receiver: a}\nreceivers: [{name: a}]\n",
		"receiver":  "route: {receiver: nobody}\nreceivers: [{name: a}]\n",
		"field":     "rout: {}\n",
		"empty":     "",
	} {
		if _, err := Load([]byte(text)); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	bad, err := Load([]byte("route: {receiver: a}\nreceivers: [{name: a}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Apply(bad, [][]byte{[]byte(`{{ define "broken" }}`)}); err == nil {
		t.Error("a template with a fault is accepted")
	}
	if n := len(m.Configured().Receivers); n != 2 {
		t.Errorf("%d receivers are in force", n)
	}
}

func TestEditingLeavesWhatElseIsThere(t *testing.T) {
	text, err := AddReceiver(Default(), Receiver{Name: "hook", Kind: "webhook", Secret: "https://example.com/hook", Resolved: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"# One notification for one kind of trouble", "- receiver: hook", "send_resolved: true", "url: https://example.com/hook"} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%s is missing in\n%s", part, text)
		}
	}
	if _, err := AddReceiver(text, Receiver{Name: "hook", Kind: "webhook", Secret: "https://example.com/other"}); err == nil {
		t.Error("a receiver is added twice")
	}
	text, err = RemoveReceiver(text, "hook")
	if err != nil || strings.Contains(string(text), "hook") {
		t.Errorf("after removing: %v\n%s", err, text)
	}
	if _, err := RemoveReceiver(text, "nobody"); err == nil {
		t.Error("the receiver of the route was removed")
	}
}

func TestWhatIsMissingIsSaidWithoutTheSecret(t *testing.T) {
	for what, r := range map[string]Receiver{
		"kind":     {Name: "a", Kind: "pigeon", Secret: "s3cret"},
		"name":     {Name: "A b", Kind: "slack", Secret: "https://example.com/s3cret"},
		"no URL":   {Name: "a", Kind: "slack", Secret: "s3cret"},
		"bad URL":  {Name: "a", Kind: "webhook", Secret: "http://[s3cret"},
		"no key":   {Name: "a", Kind: "pagerduty"},
		"no to":    {Name: "a", Kind: "email", Secret: "s3cret"},
		"password": {Name: "a", Kind: "email", Email: Email{To: "a@b", From: "c@d", Smarthost: "e:25", Username: "f"}},
	} {
		_, err := AddReceiver(Default(), r)
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
