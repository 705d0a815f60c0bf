package alertmanager

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
)

// told is what a fake endpoint was sent.
type told struct {
	path, authorization, body string
}

// endpoint answers as PagerDuty, Opsgenie, Slack and webhooks do, and tells what it was sent.
func endpoint(t *testing.T) (address string, sent chan told) {
	t.Helper()
	sent = make(chan told, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.HasPrefix(r.URL.Path, "/v2/") { // PagerDuty and Opsgenie
			w.WriteHeader(http.StatusAccepted)
		}
		fmt.Fprint(w, "ok")
		sent <- told{r.URL.Path, r.Header.Get("Authorization"), string(body)}
	}))
	t.Cleanup(s.Close)
	return s.URL, sent
}

// mailServer speaks SMTP (RFC 5321) with one client after the other, and tells of each mail.
func mailServer(t *testing.T) (address string, sent chan told) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	sent = make(chan told, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			takeMail(c, sent)
		}
	}()
	return l.Addr().String(), sent
}

func takeMail(c net.Conn, sent chan told) {
	defer c.Close()
	lines := bufio.NewScanner(c)
	fmt.Fprint(c, "220 mail.example.com\r\n")
	var mail told
	for lines.Scan() {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			fmt.Fprint(c, "250-mail.example.com\r\n250 AUTH PLAIN\r\n")
		case "AUTH":
			mail.authorization = rest
			fmt.Fprint(c, "235 2.7.0 Accepted\r\n")
		case "RCPT":
			mail.path = rest
			fmt.Fprint(c, "250 OK\r\n")
		case "DATA":
			fmt.Fprint(c, "354 go on\r\n")
			for lines.Scan() && lines.Text() != "." {
				mail.body += lines.Text() + "\n"
			}
			fmt.Fprint(c, "250 OK\r\n")
			sent <- mail
		case "QUIT":
			fmt.Fprint(c, "221 bye\r\n")
			return
		default:
			fmt.Fprint(c, "250 OK\r\n")
		}
	}
}

func next(t *testing.T, sent chan told) told {
	t.Helper()
	select {
	case m := <-sent:
		return m
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was sent")
		return told{}
	}
}

// open makes a Manager as the next process on a directory would.
func open(t *testing.T, dir string) *Manager {
	t.Helper()
	m, err := New(Options{
		Dir: dir, ExternalURL: &url.URL{Scheme: "https", Host: "gantry.example.com"},
		Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// configure puts the default configuration with these receivers in force, without its patience.
func configure(t *testing.T, m *Manager, receivers ...Receiver) {
	t.Helper()
	text := Default()
	for _, r := range receivers {
		var err error
		if text, err = AddReceiver(text, r); err != nil {
			t.Fatal(err)
		}
	}
	text = []byte(strings.NewReplacer("group_wait: 10s", "group_wait: 1ms", "group_interval: 1m", "group_interval: 50ms").Replace(string(text)))
	cfg, err := Load(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Apply(cfg, nil); err != nil {
		t.Fatal(err)
	}
}

func firing(name string, labels model.LabelSet) *alert.Alert {
	now := time.Now()
	return &alert.Alert{UpdatedAt: now, Alert: model.Alert{
		Labels:   model.LabelSet{"alertname": model.LabelValue(name), "severity": "critical", "namespace": "shop", "pod": "cart-1"}.Merge(labels),
		StartsAt: now.Add(-time.Minute), EndsAt: now.Add(5 * time.Minute),
		Annotations: model.LabelSet{"summary": "The cart crashes", "first": "kubectl logs cart-1", "logs": "/console/logs?namespace=shop&pod=cart-1"},
	}}
}

func put(t *testing.T, m *Manager, a ...*alert.Alert) {
	t.Helper()
	if err := m.Put(t.Context(), a...); err != nil {
		t.Fatal(err)
	}
}

func TestEveryKindOfReceiverIsTold(t *testing.T) {
	const link = "https://gantry.example.com/console/logs?namespace=shop&pod=cart-1"
	at, web := endpoint(t)
	smarthost, mails := mailServer(t)
	for _, c := range []struct {
		receiver Receiver
		sent     chan told
		path     string
		holds    []string
	}{
		{Receiver{Kind: "webhook", Secret: at + "/hook?token=secret"}, web, "/hook", []string{`"externalURL":"https://gantry.example.com"`, `"status":"firing"`, "cart-1"}},
		{Receiver{Kind: "slack", Secret: at + "/services/T0/B0/X", Channel: "#shop"}, web, "/services/T0/B0/X", []string{`"channel":"#shop"`, "The cart crashes", "kubectl logs cart-1"}},
		{Receiver{Kind: "pagerduty", Secret: "routing-key", APIURL: at + "/v2/enqueue"}, web, "/v2/enqueue", []string{`"routing_key":"routing-key"`, `"event_action":"trigger"`, `"severity":"critical"`, "The cart crashes"}},
		{Receiver{Kind: "opsgenie", Secret: "api-key", APIURL: at}, web, "/v2/alerts", []string{`"priority":"P1"`, "The cart crashes"}},
		{Receiver{Kind: "email", Secret: "password", Email: Email{To: "ops@example.com", From: "gantry@example.com", Smarthost: smarthost, Username: "gantry", Plain: true}},
			mails, "TO:<ops@example.com>", []string{"Subject: [FIRING:1] Crash in shop", "The cart crashes"}},
	} {
		t.Run(c.receiver.Kind, func(t *testing.T) {
			c.receiver.Name = c.receiver.Kind
			m := open(t, t.TempDir())
			configure(t, m, c.receiver)
			put(t, m, firing("Crash", nil))
			got := next(t, c.sent)
			text := got.body
			var slack struct{ Attachments []struct{ Text string } }
			if c.receiver.Kind == "slack" && json.Unmarshal([]byte(text), &slack) == nil && !strings.Contains(slack.Attachments[0].Text, link) {
				t.Errorf("the text has no link %s: %s", link, slack.Attachments[0].Text)
			}
			if !strings.HasPrefix(got.path, c.path) {
				t.Errorf("was sent to %s", got.path)
			}
			for _, part := range c.holds {
				if !strings.Contains(text, part) {
					t.Errorf("%s is missing in %s", part, text)
				}
			}
			if c.receiver.Kind == "opsgenie" && got.authorization != "GenieKey api-key" {
				t.Errorf("authorization %q", got.authorization)
			}
			if c.receiver.Kind == "email" && !strings.HasPrefix(got.authorization, "PLAIN ") {
				t.Errorf("login %q", got.authorization)
			}
		})
	}
}

func TestAReceiverIsToldOnlyOfWhatItAskedFor(t *testing.T) {
	at, sent := endpoint(t)
	m := open(t, t.TempDir())
	configure(t, m,
		Receiver{Name: "all", Kind: "webhook", Secret: at + "/all"},
		Receiver{Name: "bank", Kind: "webhook", Secret: at + "/bank", Namespaces: []string{"bank"}, Severities: []string{"warning"}},
		Receiver{Name: "heart", Kind: "webhook", Secret: at + "/heart", Heartbeat: 200 * time.Millisecond})
	put(t, m, firing("Info", model.LabelSet{"severity": "info"}), firing("Low", model.LabelSet{"namespace": "bank", "severity": "warning"}),
		firing("Crash", nil), firing("Watchdog", model.LabelSet{"severity": "none"}))
	seen := map[string]int{}
	for seen["/heart"] < 3 || seen["/all"] < 2 || seen["/bank"] < 1 {
		got := next(t, sent)
		var hook struct{ GroupLabels map[string]string }
		if err := json.Unmarshal([]byte(got.body), &hook); err != nil {
			t.Fatal(err)
		}
		seen[got.path]++
		name := hook.GroupLabels["alertname"]
		if name == "Info" || (name == "Watchdog") != (got.path == "/heart") || got.path == "/bank" && name != "Low" {
			t.Errorf("%s was told of %s", got.path, name)
		}
	}
	if seen["/all"] != 2 || seen["/bank"] != 1 {
		t.Errorf("told %v times", seen)
	}
}
