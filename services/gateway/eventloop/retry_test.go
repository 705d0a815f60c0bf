package eventloop

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// reasons are why there were attempts so far.
func (p *everything) reasons() []Failure {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.after)
}

func TestAResponseThatIsRefusedIsNotDelivered(t *testing.T) {
	var calls atomic.Int32
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if calls.Add(1)%3 != 0 {
			w.WriteHeader(503)
		}
		fmt.Fprint(w, calls.Load())
	})
	a, b, c := httptest.NewServer(answer), httptest.NewServer(answer), httptest.NewServer(answer)
	for _, s := range []*httptest.Server{a, b, c} {
		t.Cleanup(s.Close)
	}
	f := newFront(t, Config{}, &Port{}, a.Listener.Addr().String(), b.Listener.Addr().String(), c.Listener.Addr().String())
	f.policy.picky, f.policy.pause = true, time.Millisecond
	w := f.dial("")
	for range 3 { // on one connection, which goes on
		w.say("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab")
		if r, body := w.response("PUT"); r.StatusCode != 200 {
			t.Fatalf("got %d %q, want the third answer", r.StatusCode, body)
		}
	}
	want := []Failure{NoBackend, Refused, Paused, Refused, Paused}
	if got := f.policy.reasons(); !slices.Equal(got, slices.Concat(want, want, want)) {
		t.Errorf("attempts were made because of %v", got)
	}
	w.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab")
	if r, _ := w.response("POST"); r.StatusCode != 503 {
		t.Errorf("a request that may not be repeated got %d, want the answer to it", r.StatusCode)
	}
	f.policy.balanced(t)
}

func TestAClientThatBreaksOffDuringAPauseEndsItsExchange(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	a, b := httptest.NewServer(answer), httptest.NewServer(answer)
	defer a.Close()
	defer b.Close()
	f := newFront(t, Config{}, &Port{}, a.Listener.Addr().String(), b.Listener.Addr().String())
	f.policy.picky, f.policy.pause = true, time.Hour
	w := f.dial("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	for deadline := time.Now().Add(patience); len(f.policy.reasons()) < 2; {
		if time.Now().After(deadline) {
			t.Fatal("the answer was not refused")
		}
		time.Sleep(time.Millisecond)
	}
	if err := w.Conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	w.Close()
	f.policy.balanced(t)
}

func TestAPauseEndsWithTheExchange(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	a, b := httptest.NewServer(answer), httptest.NewServer(answer)
	defer a.Close()
	defer b.Close()
	f := newFront(t, Config{}, &Port{}, a.Listener.Addr().String(), b.Listener.Addr().String())
	f.policy.picky, f.policy.pause = true, time.Hour
	f.policy.limit(Timeouts{Exchange: 50 * time.Millisecond})
	w := f.dial("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if r, body := w.response("GET"); r.StatusCode != 502 || body != fmt.Sprint(int(TimedOut)) {
		t.Errorf("got %d %q, want a failure for lack of time", r.StatusCode, body)
	}
}
