package controllers

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestEventsAreWrittenAfterwards tells when requests reach the API.
func TestEventsAreWrittenAfterwards(t *testing.T) {
	type request struct {
		at   int // milliseconds
		what string
	}
	const ns = "/api/v1/namespaces/a/"
	for _, c := range []struct {
		name     string
		requests []request
		want     []string
	}{
		{"an event is written at once when nothing happens",
			[]request{{0, "POST /apis/events.k8s.io/v1/namespaces/a/events"}},
			[]string{"0 POST /apis/events.k8s.io/v1/namespaces/a/events"}},
		{"and after the pods when something does",
			[]request{{0, "POST " + ns + "pods"}, {1, "POST " + ns + "events"}, {10, "POST " + ns + "pods/x/binding"}, {20, "DELETE " + ns + "pods/y"}, {30, "GET " + ns + "pods/y"}},
			[]string{"0 POST pods", "10 POST pods/x/binding", "20 DELETE pods/y", "30 GET pods/y", "45 POST events"}},
		{"reading events never waits",
			[]request{{0, "POST " + ns + "pods"}, {1, "GET " + ns + "events"}},
			[]string{"0 POST pods", "1 GET events"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var mu sync.Mutex
				var got []string
				a := &afterwards{}
				api := a.wrap(roundTrip(func(r *http.Request) (*http.Response, error) {
					mu.Lock()
					defer mu.Unlock()
					got = append(got, fmt.Sprintf("%d %s %s", time.Since(began).Milliseconds(), r.Method, strings.TrimPrefix(r.URL.Path, ns)))
					return &http.Response{}, nil
				}))
				for _, r := range c.requests {
					go func() {
						time.Sleep(time.Duration(r.at) * time.Millisecond)
						method, path, _ := strings.Cut(r.what, " ")
						req, _ := http.NewRequestWithContext(t.Context(), method, "http://api"+path, nil)
						_, _ = api.RoundTrip(req)
					}()
				}
				time.Sleep(time.Minute)
				if !slices.Equal(got, c.want) {
					t.Errorf("sent %q, want %q", got, c.want)
				}
			})
		})
	}
}

// TestEventsDoNotWaitForEver lets pods be made without a pause.
func TestEventsDoNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &afterwards{}
		go func() {
			for range 300 {
				a.noteWork()
				time.Sleep(10 * time.Millisecond)
			}
		}()
		synctest.Wait()
		began := time.Now()
		if err := a.await(t.Context()); err != nil || time.Since(began) != eventPatience {
			t.Errorf("waited %v (%v), want %v", time.Since(began), err, eventPatience)
		}
		time.Sleep(time.Minute)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
