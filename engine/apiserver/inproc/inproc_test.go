package inproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
)

func get(t *testing.T, tr *Transport, ctx context.Context, path string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tr.RoundTrip(req)
}

func TestIdentityComesFromTheTransportOnly(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, ok := UserFrom(r.Context())
		fmt.Fprint(w, ok, u.GetName())
	})
	req, _ := http.NewRequest(http.MethodGet, "http://api/x", nil)
	req.Header.Set("Authorization", "Bearer admin")
	req.Header.Set("X-Remote-User", "admin")
	resp, err := New(h, &user.DefaultInfo{Name: "alice"}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	if string(b) != "truealice" {
		t.Fatalf("handler saw %q", b)
	}
}

func TestARequestSentForAnotherHasAnAuditOfItsOwn(t *testing.T) {
	type mine struct{}
	outer := context.WithValue(audit.WithAuditContext(t.Context()), mine{}, "kept")
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner := audit.WithAuditContext(r.Context())
		fmt.Fprint(w, audit.AuditContextFrom(r.Context()) == nil, audit.AuditContextFrom(inner) != nil, r.Context().Value(mine{}))
	})
	resp, err := get(t, New(h, nil), outer, "/api/v1/pods")
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(resp.Body); string(b) != "true truekept" {
		t.Fatalf("the handler saw %q", b)
	}
}

func TestAnAnswerReadWhileItIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := make(chan string)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for s := range next {
				_, _ = io.WriteString(w, s)
			}
		})
		resp, err := func() (*http.Response, error) {
			go func() { next <- "one" }()
			return get(t, New(h, nil), t.Context(), "/api/v1/pods?watch=1")
		}()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		if n, _ := resp.Body.Read(b); string(b[:n]) != "one" {
			t.Fatalf("read %q", b[:n])
		}
		next <- "two"
		close(next)
		rest, err := io.ReadAll(resp.Body)
		if err != nil || string(rest) != "two" {
			t.Fatalf("read %q, %v", rest, err)
		}
	})
}

// Closing the body, like cancelling the request, must end the handler: synctest fails the test
// when a goroutine stays behind.
func TestTheReaderEndsTheHandler(t *testing.T) {
	for name, end := range map[string]func(io.Closer, context.CancelFunc){
		"close":  func(b io.Closer, _ context.CancelFunc) { _ = b.Close() },
		"cancel": func(_ io.Closer, c context.CancelFunc) { c() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.(http.Flusher).Flush()
					<-r.Context().Done()
					if _, err := io.WriteString(w, "late"); err == nil {
						t.Error("a write after the end succeeded")
					}
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				resp, err := get(t, New(h, nil), ctx, "/api/v1/pods?watch=true")
				if err != nil {
					t.Fatal(err)
				}
				end(resp.Body, cancel)
				synctest.Wait()
				if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
					t.Fatal("read after the end succeeded")
				}
			})
		})
	}
}

func TestAWriterWaitsForASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total = 3 * streamLimit
		written := 0
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for chunk := make([]byte, 1000); written < total; written += len(chunk) {
				if _, err := w.Write(chunk); err != nil {
					t.Error(err)
				}
			}
		})
		resp, err := get(t, New(h, nil), t.Context(), "/api/v1/pods?watch=1")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if written > streamLimit+1000 {
			t.Fatalf("the handler wrote %d bytes ahead", written)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if err != nil || n != int64(written) {
			t.Fatalf("read %d of %d, %v", n, written, err)
		}
	})
}

func TestPanicsBecomeErrors(t *testing.T) {
	for _, path := range []string{"/api/v1/pods", "/api/v1/pods?watch=1"} {
		_, err := get(t, New(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") }), nil), t.Context(), path)
		if err == nil || !strings.Contains(err.Error(), "boom") {
			t.Fatalf("%s: %v", path, err)
		}
		_, err = get(t, New(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), nil), t.Context(), path)
		if !errors.Is(err, http.ErrAbortHandler) {
			t.Fatalf("%s: %v", path, err)
		}
	}
}

func TestUpgradesAreRefused(t *testing.T) {
	req, _ := http.NewRequest(http.MethodPost, "http://api/api/v1/namespaces/a/pods/b/exec", nil)
	req.Header.Set("Upgrade", "websocket")
	if _, err := New(http.NotFoundHandler(), nil).RoundTrip(req); err == nil || !strings.Contains(err.Error(), "kubeconfig") {
		t.Fatalf("got %v", err)
	}
}

// A watch is refused like any other request, also by a handler that was about to send events.
func TestARefusedWatchIsAnsweredInBytes(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if SenderFrom(r.Context()) == nil {
			t.Error("a watch cannot take events")
		}
		http.Error(w, "no", http.StatusForbidden)
	})
	resp, err := get(t, New(h, &user.DefaultInfo{Name: "a"}), t.Context(), "/api/v1/pods?watch=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusForbidden || string(body) != "no\n" {
		t.Errorf("%d %q %v", resp.StatusCode, body, err)
	}
}
