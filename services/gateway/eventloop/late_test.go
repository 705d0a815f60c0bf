package eventloop

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// TestManyEventsAtOnce stops the loop until the requests of many clients have
// arrived, and lets some of them leave, and the backend close its connections,
// before it goes on.
func TestManyEventsAtOnce(t *testing.T) {
	for name, closed := range map[string]bool{"with parked connections": false, "with parked connections that the backend has closed": true} {
		t.Run(name, func(t *testing.T) {
			const clients = 24
			var together sync.WaitGroup
			together.Add(clients)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return
				}
				if r.URL.Path == "/first" { // all at once, so that each has a connection of its own
					together.Done()
					together.Wait()
				}
				fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.Path, len(body))
			}))
			defer server.Close()
			f := newFront(t, Config{Loops: 1}, &Port{}, server.Listener.Addr().String())
			var wires []*wire
			for range clients {
				wires = append(wires, f.dial("GET /first HTTP/1.1\r\nHost: a\r\n\r\n"))
			}
			for _, w := range wires {
				w.response("GET")
			}
			stopped, goOn := make(chan struct{}), make(chan struct{})
			f.loops[0].post(func() {
				close(stopped)
				<-goOn
			})
			<-stopped
			if closed {
				server.CloseClientConnections()
			}
			const body = 20 << 10
			for i, w := range wires {
				request := fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
				switch i % 4 {
				case 0: // leaves
					w.say(request)
					w.Close()
				case 1: // says no more
					w.say(request)
					w.Conn.(*net.TCPConn).CloseWrite()
				case 2: // asks twice
					w.say(request + request)
				default: // has more to say than is read at first
					w.say(fmt.Sprintf("PUT /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", i, body, strings.Repeat("x", body)))
				}
			}
			close(goOn)
			for i, w := range wires {
				switch i % 4 {
				case 1:
					hearAnswer(t, w, "GET", fmt.Sprintf("GET /%d 0", i))
					w.ends()
				case 2:
					hearAnswer(t, w, "GET", fmt.Sprintf("GET /%d 0", i))
					hearAnswer(t, w, "GET", fmt.Sprintf("GET /%d 0", i))
				case 3:
					hearAnswer(t, w, "PUT", fmt.Sprintf("PUT /%d %d", i, body))
				}
			}
		})
	}
}

func hearAnswer(t *testing.T, w *wire, method, want string) {
	t.Helper()
	if r, body := w.response(method); r.StatusCode != http.StatusOK || body != want {
		t.Errorf("got %d %q, want %q", r.StatusCode, body, want)
	}
}
