package eventloop

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

const get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"

func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	f := newFront(t, Config{}, &Port{}, served(t, echo))
	var all strings.Builder
	for i := range 100 {
		fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab", i)
	}
	w := f.dial(all.String())
	for i := range 100 {
		if _, body := w.response("POST"); body != fmt.Sprintf("POST /%d ab", i) {
			t.Fatalf("response %d is %q", i, body)
		}
	}
}

func TestARequestArrivesInAnyPieces(t *testing.T) {
	f := newFront(t, Config{}, &Port{}, served(t, echo))
	request := "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;ext\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n"
	w := f.dial("")
	for size := 1; size < 12; size++ {
		for at := 0; at < len(request); at += size {
			w.say(request[at:min(at+size, len(request))])
		}
		if r, body := w.response("POST"); r.StatusCode != 200 || body != "POST /x hello!" {
			t.Fatalf("in pieces of %d: %d %q", size, r.StatusCode, body)
		}
	}
}

func TestResponsesWithoutBodyKeepTheConnection(t *testing.T) {
	f := newFront(t, Config{}, &Port{}, served(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.WriteHeader(304)
		default:
			w.Header().Set("Content-Length", "1000")
		}
	}))
	w := f.dial("")
	for range 3 {
		w.say("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
		if r, _ := w.response("HEAD"); r.ContentLength != 1000 {
			t.Errorf("length %d", r.ContentLength)
		}
		for _, path := range []string{"/204", "/304"} {
			w.say("GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n")
			if r, body := w.response("GET"); fmt.Sprint("/", r.StatusCode) != path || body != "" {
				t.Errorf("%s: %d %q", path, r.StatusCode, body)
			}
		}
	}
}

func TestABackendMayAnswerUntilItCloses(t *testing.T) {
	address, accept := scripted(t)
	f := newFront(t, Config{}, &Port{}, address)
	w := f.dial(get)
	b := accept()
	b.hears("GET / HTTP/1.1\r\nHost: h\r\nVia: test\r\n\r\n")
	b.say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nKeep-Alive: x\r\n\r\nsome")
	w.hears("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsome")
	b.say(" more")
	b.Close()
	w.hears(" more")
	w.ends()
}

func TestATruncatedResponseIsSeenAsSuch(t *testing.T) {
	for _, answer := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf"} {
		address, accept := scripted(t)
		f := newFront(t, Config{}, &Port{}, address)
		w := f.dial(get)
		b := accept()
		b.say(answer)
		b.Close()
		r, err := http.ReadResponse(w.reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(r.Body); err == nil {
			t.Errorf("%q passed for whole", body)
		}
	}
}

func TestNonsenseFromABackendIsNotPassedOn(t *testing.T) {
	for _, answer := range []string{
		"SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\nX: y\n\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 70<<10), "",
	} {
		address, accept := scripted(t)
		f := newFront(t, Config{}, &Port{}, address)
		w := f.dial("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
		b := accept()
		b.hears("POST / ")
		b.say(answer)
		if answer == "" {
			b.Close()
		}
		if r, _ := w.response("POST"); r.StatusCode != 502 {
			t.Errorf("%.40q: status %d", answer, r.StatusCode)
		}
		w.ends()
	}
}

func TestAHalfClosedClientGetsItsAnswer(t *testing.T) {
	release := make(chan struct{})
	f := newFront(t, Config{}, &Port{}, served(t, func(w http.ResponseWriter, r *http.Request) {
		<-release
		fmt.Fprint(w, "answer")
	}))
	w := f.dial(get)
	w.Conn.(*net.TCPConn).CloseWrite()
	close(release)
	if _, body := w.response("GET"); body != "answer" {
		t.Errorf("got %q", body)
	}
	w.ends()
}

func TestWhatCannotBeUnderstoodIsRefused(t *testing.T) {
	f := newFront(t, Config{HeaderTimeout: 300 * time.Millisecond}, &Port{}, served(t, echo))
	for request, status := range map[string]int{
		"GET / HTTP/1.1\r\nHost : h\r\n\r\n": 400,
		"GET / HTTP/1.1\nHost: h\n\n":        400,
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n": 400,
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n":                          400,
		"GET / HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("b", 200<<10) + "\r\n\r\n":                   431,
		"GET / HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("A: b\r\n", 20<<10) + "\r\n":                    431,
		"GET / HTTP/1.1\r\nHost: h\r\nslow: ":                                                            408,
		get[:len(get)-2] + "Connection: keep-alive\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nHost: h2\r\n\r\n": 200,
	} {
		w := f.dial(request)
		r, body := w.response("GET")
		if r.StatusCode != status {
			t.Errorf("%.60q: %d %s", request, r.StatusCode, body)
		}
		if status == 200 {
			r, _ = w.response("GET")
			status = 400
		}
		if r.StatusCode != status || !r.Close || r.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%.60q: %d %v", request, r.StatusCode, r.Header)
		}
		w.ends()
	}
}

func TestTheUnusualIsHandedOverWithEveryByte(t *testing.T) {
	f := newFront(t, Config{}, &Port{}, served(t, echo))
	upgrade := "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly"
	w := f.dial(get + get + upgrade)
	for range 2 {
		w.response("GET")
	}
	w.say(" and late")
	taken := newWire(t, <-f.handed)
	taken.hears(upgrade + " and late")
	taken.say("hello")
	w.hears("hello")
	taken.Close()
	w.ends()
	if n := f.Clients(); n != 0 {
		t.Errorf("%d clients left", n)
	}
}

func TestOnlyWhatIsSafeIsSentTwice(t *testing.T) {
	for method, status := range map[string]int{"GET": 200, "POST": 502} {
		breaks, accept := scripted(t)
		f := newFront(t, Config{}, &Port{}, served(t, echo), breaks) // the second one is asked first
		w := f.dial(method + " / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab")
		b := accept()
		b.hears(method + " / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nVia: test\r\n\r\nab")
		b.Close()
		if r, body := w.response(method); r.StatusCode != status || status == 200 && body != "GET / ab" {
			t.Errorf("%s after the backend broke off: %d %q, want %d", method, r.StatusCode, body, status)
		}
	}
}

func TestAnExchangeIsGivenUpInTime(t *testing.T) {
	for name, limits := range map[string]Timeouts{"exchange": {Exchange: 30 * time.Millisecond}, "attempt": {Attempt: 30 * time.Millisecond, Exchange: time.Minute}} {
		address, accept := scripted(t)
		f := newFront(t, Config{}, &Port{}, address)
		f.policy.limit(limits)
		w := f.dial(get)
		accept().hears("GET")
		if r, body := w.response("GET"); r.StatusCode != 502 || body != fmt.Sprint(int(TimedOut)) {
			t.Errorf("%s: %d %q", name, r.StatusCode, body)
		}
		w.ends()
	}
	// What is answered in time goes on, and the limit of one exchange is not the next one's.
	f := newFront(t, Config{}, &Port{}, served(t, echo))
	f.policy.limit(Timeouts{Attempt: time.Minute, Exchange: time.Hour})
	w := f.dial("")
	for range 3 {
		w.say(get)
		w.response("GET")
	}
	left := make(chan int)
	f.policy.balanced(t)
	for _, l := range f.loops {
		l.post(func() { left <- len(l.timers) })
		if n := <-left; n != 0 {
			t.Errorf("%d timers are left", n)
		}
	}
}

func TestABackendThatRefusesConnectionsIsPassedOver(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	f := newFront(t, Config{}, &Port{}, served(t, echo), l.Addr().String())
	w := f.dial("")
	for range 10 {
		w.say("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")
		if r, body := w.response("POST"); r.StatusCode != 200 || body != "POST / ab" {
			t.Fatalf("%d %q", r.StatusCode, body)
		}
	}
}

func TestAConnectionTheBackendHasClosedIsNotUsed(t *testing.T) {
	address, accept := scripted(t)
	f := newFront(t, Config{Loops: 1}, &Port{}, address)
	w := f.dial("")
	for range 20 {
		w.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
		b := accept() // each time a new one
		b.hears("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nVia: test\r\n\r\nx")
		b.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		b.Close()
		if r, _ := w.response("POST"); r.StatusCode != 200 {
			t.Fatalf("status %d", r.StatusCode)
		}
	}
}

func TestAnEarlyAnswerEndsTheUpload(t *testing.T) {
	address, accept := scripted(t)
	f := newFront(t, Config{}, &Port{}, address)
	w := f.dial("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\nbegin")
	b := accept()
	b.hears("POST / HTTP/1.1\r\n")
	b.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
	if r, body := w.response("POST"); r.StatusCode != 413 || body != "big" {
		t.Errorf("%d %q", r.StatusCode, body)
	}
	w.ends()
}

func TestASlowReaderHoldsUpOnlyItself(t *testing.T) {
	const size = 64 << 20
	f := newFront(t, Config{Loops: 1}, &Port{}, served(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/big" {
			io.CopyN(w, rand.NewChaCha8([32]byte{}), size)
		}
	}))
	slow := f.dial("GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
	for range 100 {
		if r, _ := f.dial(get).response("GET"); r.StatusCode != 200 {
			t.Fatal(r.StatusCode)
		}
	}
	held := make(chan int)
	f.loops[0].post(func() {
		n := 0
		for _, s := range f.loops[0].slots {
			if c, ok := s.watcher.(*client); ok {
				n += len(c.out)
			}
		}
		held <- n
	})
	if n := <-held; n == 0 || n > 2*readSize {
		t.Errorf("%d bytes are held for a client that does not read", n)
	}
	sum, want := sha256.New(), sha256.New()
	r, err := http.ReadResponse(slow.reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(sum, r.Body)
	io.CopyN(want, rand.NewChaCha8([32]byte{}), size)
	if !bytes.Equal(sum.Sum(nil), want.Sum(nil)) {
		t.Error("the body was damaged")
	}
}

func TestExchangesFinishWhenAPortCloses(t *testing.T) {
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	f := newFront(t, Config{}, &Port{}, served(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
		fmt.Fprint(w, "done")
	}))
	idle := f.dial(get)
	idle.response("GET")
	busy := f.dial("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
	<-arrived
	f.Close(f.port, Farewell)
	f.listener.Close()
	if conn, err := net.Dial("tcp", f.address); err == nil {
		conn.Close()
		t.Error("a closed port accepts")
	}
	idle.say(get) // was on its way
	if r, body := idle.response("GET"); body != "done" || !r.Close {
		t.Errorf("the idle connection: %q, close %v", body, r.Close)
	}
	close(release)
	if r, body := busy.response("GET"); body != "done" || !r.Close {
		t.Errorf("the busy connection: %q, close %v", body, r.Close)
	}
}

// TestManyAtOnceArriveWhole sends bodies of every size, framed both ways, through
// plain and TLS connections, and compares every byte.
func TestManyAtOnceArriveWhole(t *testing.T) {
	backend := served(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if r.URL.Path == "/known" {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		}
		for len(body) > 0 {
			n := min(len(body), 1+rand.IntN(40<<10))
			w.Write(body[:n])
			body = body[n:]
		}
	})
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			port := &Port{}
			transport := &http.Transport{MaxIdleConnsPerHost: 16}
			scheme := "http"
			if secure {
				port.TLS, transport.TLSClientConfig = keyPair(t)
				scheme = "https"
			}
			f := newFront(t, Config{}, port, backend)
			defer transport.CloseIdleConnections()
			var workers sync.WaitGroup
			for range 8 {
				workers.Go(func() {
					for i := range 40 {
						body := make([]byte, rand.IntN(1<<(i%21)+1))
						rand.NewChaCha8([32]byte{byte(i)}).Read(body)
						var reader io.Reader = bytes.NewReader(body)
						if i%2 == 0 {
							reader = io.MultiReader(reader) // of unknown length
						}
						path := [2]string{"/known", "/chunked"}[rand.IntN(2)]
						r, _ := http.NewRequest("PUT", scheme+"://"+f.address+path, reader)
						response, err := transport.RoundTrip(r)
						if err != nil {
							t.Errorf("%d bytes: %v", len(body), err)
							return
						}
						got, err := io.ReadAll(response.Body)
						response.Body.Close()
						if err != nil || !bytes.Equal(got, body) {
							t.Errorf("of %d bytes %d came back, %v", len(body), len(got), err)
						}
					}
				})
			}
			workers.Wait()
		})
	}
}
