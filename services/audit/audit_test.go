package audit

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/logfile"
)

var begin = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// event is the nth line of an API server's log.
func event(n int, user, verb, namespace, resource string) string {
	return fmt.Sprintf(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","verb":%q,"user":{"username":%q},"objectRef":{"resource":%q,"namespace":%q,"name":"n%d"},"requestReceivedTimestamp":%q}`,
		verb, user, resource, namespace, n, begin.Add(time.Duration(n)*time.Second).Format(time.RFC3339Nano))
}

// get asks, and returns the names of the objects of the entries.
func get(t *testing.T, h http.Handler, path string) (names string, list List) {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	if rec.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Entries {
		var of struct {
			ObjectRef struct{ Name string }
			Path      string
		}
		if err := json.Unmarshal(e, &of); err != nil {
			t.Fatal(err)
		}
		names += of.ObjectRef.Name + of.Path + " "
	}
	return strings.TrimSpace(names), list
}

func TestEvents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	log, err := logfile.Open(path, logfile.Options{MaxSize: 600}) // so that there are several files
	if err != nil {
		t.Fatal(err)
	}
	for n, line := range []string{
		event(0, "jane", "create", "shop", "pods"), event(1, "joe", "delete", "shop", "pods"), event(2, "jane", "patch", "blog", "deployments"),
		event(3, "system:admin", "get", "shop", "secrets"), `{"kind":"Event","verb":"cr`, event(5, "Jane", "create", "", "namespaces"),
	} {
		if _, err := log.Write([]byte(line + "\n")); err != nil {
			t.Fatal(n, err)
		}
	}
	if files, _ := log.Rotated(); len(files) < 2 {
		t.Fatalf("the log was not rotated: %v", files)
	}
	h := New(Config{API: path, Gateway: path + ".none"})
	at := func(n int) string {
		return url.QueryEscape(begin.Add(time.Duration(n) * time.Second).Format(time.RFC3339))
	}
	for query, want := range map[string]string{
		"":                                    "n5 n3 n2 n1 n0",
		"limit=2":                             "n5 n3",
		"limit=2&before=" + at(3):             "n2 n1",
		"after=" + at(2):                      "n5 n3 n2",
		"after=" + at(1) + "&before=" + at(3): "n2 n1",
		"user=jane":                           "n2 n0",
		"namespace=shop&verb=delete":          "n1",
		"resource=secrets":                    "n3",
		"text=JANE":                           "n5 n2 n0",
		"text=nobody":                         "",
	} {
		got, list := get(t, h, Prefix+"api/v1/events?"+query)
		if got != want {
			t.Errorf("%q: got %q, want %q", query, got, want)
		}
		if list.Complete == strings.Contains(query, "limit=2") {
			t.Errorf("%q: complete is %t", query, list.Complete)
		}
	}
	if got, list := get(t, h, Prefix+"api/v1/requests"); got != "" || !list.Complete {
		t.Errorf("of a log that does not exist: %q, %+v", got, list)
	}
}

func TestRequestsOfTheGateway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	text := `{"time":"2026-05-01T12:00:00Z","client":"192.0.2.1","who":{"name":"jane","method":"token"},"method":"GET","host":"h","path":"/a","route":"HTTPRoute/shop/web","status":200,"seconds":0.1}
{"dropped":3}
{"time":"2026-05-01T12:00:01Z","client":"192.0.2.1","method":"POST","host":"h","path":"/b","route":"HTTPRoute/blog/web","status":403,"seconds":0.1}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h := New(Config{Gateway: path})
	for query, want := range map[string]string{"": "/b  /a", "namespace=shop": "/a", "user=jane": "/a", "verb=POST": "/b"} {
		if got, _ := get(t, h, Prefix+"api/v1/requests?"+query); got != want {
			t.Errorf("%q: got %q, want %q", query, got, want)
		}
	}
}

func TestWrongQuestions(t *testing.T) {
	h := New(Config{API: filepath.Join(t.TempDir(), "audit.log")})
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "before=yesterday", "colour=red"} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, Prefix+"api/v1/events?"+query, nil))
		name, _, _ := strings.Cut(query, "=")
		if rec.Code != http.StatusBadRequest || !strings.Contains(rec.Body.String(), name) {
			t.Errorf("%s: %d %s", query, rec.Code, rec.Body)
		}
	}
}

// TestLinesAreReadBackwards: also those that lie across blocks.
func TestLinesAreReadBackwards(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var text strings.Builder
	const count = 3000
	for n := range count {
		fmt.Fprintf(&text, "%d %s\n", n, strings.Repeat("x", n%200))
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	next := count
	all, err := backwards(path, maxRead, func(line []byte) bool {
		next--
		want := fmt.Sprintf("%d %s", next, strings.Repeat("x", next%200))
		if string(line) != want {
			t.Fatalf("got %q, want %q", line, want)
		}
		return true
	})
	if err != nil || !all || next != 0 {
		t.Errorf("ended at %d, %t, %v", next, all, err)
	}
	read := 0
	if all, err := backwards(path, 100<<10, func([]byte) bool { read++; return true }); err != nil || all || read == 0 || read > count/2 {
		t.Errorf("within 100 KB: %d lines, %t, %v", read, all, err)
	}
}
