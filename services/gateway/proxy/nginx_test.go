package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// TestForwardingIsLikeNginx sends the same exchanges through the gateway and through
// nginx, and compares what the backend gets, what the client gets, and whether the
// connection goes on. Every difference is listed in differences with its reason;
// one that is not, or that is not there any more, fails. `make differential` fetches
// nginx.
func TestForwardingIsLikeNginx(t *testing.T) {
	program := findNginx(t)
	back := newScripted(t)
	g := newGateway(t)
	g.rule("", "/", to("scripted"))
	g.apply()
	g.SetUpstreams([]route.Upstream{{Service: servicePort("scripted"), Protocol: route.HTTP1, Endpoints: []netip.AddrPort{back.address}}}, nil)
	nginx := startNginx(t, program, back.address)
	used := map[string]bool{}
	for _, x := range exchanges() {
		t.Run(x.name, func(t *testing.T) {
			back.answer(x.answer)
			var unexplained []string
			// More than once: what an earlier exchange has left on its way may arrive during
			// this one. A difference that is real is there each time.
			for range 3 {
				if unexplained = back.compare(t, x, g.address, nginx, used); unexplained == nil {
					return
				}
			}
			for _, key := range unexplained {
				t.Errorf("not explained: %s", key)
			}
		})
	}
	for _, d := range differences {
		for _, name := range d.exchanges {
			if !used[d.why+name] && !strings.HasPrefix(name, "half-close") { // whether nginx notices is a race
				t.Errorf("%s: this is no difference any more: %s", name, d.why)
			}
		}
	}
}

// compare sends an exchange through both and returns the differences that are not
// listed. Those that are it notes as used.
func (s *scripted) compare(t *testing.T, x exchangeCase, gateway, nginx string, used map[string]bool) (unexplained []string) {
	t.Helper()
	ours, theirs := s.observe(t, gateway, x), s.observe(t, nginx, x)
	for side, lines := range map[string][]string{"gateway": without(ours, theirs), "nginx": without(theirs, ours)} {
		for _, line := range lines {
			key := side + " | " + line
			i := slices.IndexFunc(differences, func(d difference) bool {
				return slices.Contains(d.exchanges, x.name) && d.line.MatchString(key)
			})
			if i < 0 {
				unexplained = append(unexplained, key)
				continue
			}
			used[differences[i].why+x.name] = true
		}
	}
	return unexplained
}

func findNginx(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"nginx", "/usr/sbin/nginx", "../../../bin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("nginx is not installed: `make differential` fetches it")
	return ""
}

// startNginx runs nginx as a plain reverse proxy and returns its address.
func startNginx(t *testing.T, program string, backend netip.AddrPort) string {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	config := fmt.Sprintf(`
daemon off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log; user root;
events { worker_connections 256; }
http {
	access_log off; client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
	upstream back { server %[2]s; keepalive 8; }
	server {
		listen %[3]s;
		location / {
			proxy_pass http://back; proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off;
			proxy_set_header Host $http_host; proxy_set_header Connection $connection_upgrade; proxy_set_header Upgrade $http_upgrade;
			proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;
		}
	}
}`, dir, backend, address)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "-c", path, "-e", dir+"/error.log")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(os.Interrupt)
		_ = c.Wait()
	})
	for end := time.Now().Add(patience); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return address
		}
		if time.Now().After(end) {
			t.Fatalf("nginx does not listen: %v", err)
		}
	}
}

// exchangeCase is what a client sends and what the backend answers to it.
type exchangeCase struct {
	name, send string
	answer     string // "" is a usual one
	answers    int    // how many the client awaits; 0 is 1
	halfClose  bool   // the client closes its side after sending
	hangs      bool   // nginx waits for what does not come
	isHead     bool
}

const usualAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Type: text/plain\r\n\r\nyes"

// scripted is a backend that answers with given bytes, and notes what it gets.
type scripted struct {
	address netip.AddrPort

	mu     sync.Mutex
	script string
	lines  []string
	count  int
}

func newScripted(t *testing.T) *scripted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{address: netip.MustParseAddrPort(l.Addr().String())}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	return s
}

func (s *scripted) answer(script string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = script
}

func (s *scripted) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if r.Header.Get("Expect") != "" {
			fmt.Fprint(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.mu.Lock()
		script := s.script
		if r.URL.Path == "/next" {
			script = ""
		} else {
			s.count++
			s.note(r, body)
		}
		s.mu.Unlock()
		if script == "" {
			script = usualAnswer
		}
		script, ends := strings.CutSuffix(script, "EOF")
		fmt.Fprint(c, script)
		if ends {
			return
		}
	}
}

// note adds what a request consists of. The caller holds the lock.
func (s *scripted) note(r *http.Request, body []byte) {
	add := func(format string, args ...any) {
		s.lines = append(s.lines, fmt.Sprintf("backend %d: ", s.count)+fmt.Sprintf(format, args...))
	}
	add("%s %s %s", r.Method, r.RequestURI, r.Proto)
	add("Host: %s", r.Host)
	for name, values := range r.Header {
		if !strings.HasPrefix(name, "X-Forwarded-") {
			add("%s: %q", name, values)
		}
	}
	add("body %q, length %d, %v", body, r.ContentLength, r.TransferEncoding)
	for name, values := range r.Trailer {
		add("trailer %s: %q", name, values)
	}
}

// observe carries out an exchange and returns what is to be seen of it, in lines.
func (s *scripted) observe(t *testing.T, proxy string, x exchangeCase) []string {
	t.Helper()
	s.mu.Lock()
	s.lines, s.count = nil, 0
	s.mu.Unlock()
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, x.send)
	if x.halfClose {
		c.(*net.TCPConn).CloseWrite()
	}
	in := bufio.NewReader(c)
	var seen []string
	for i := range max(x.answers, 1) {
		seen = append(seen, clientSees(in, i+1, x.isHead)...)
	}
	if !x.halfClose {
		io.WriteString(c, get)
	}
	if x.hangs {
		c.SetDeadline(time.Now().Add(2 * time.Second))
	}
	r, err := http.ReadResponse(in, nil)
	switch {
	case err == nil:
		seen = append(seen, fmt.Sprintf("the connection goes on: %d", r.StatusCode))
	case errors.Is(err, os.ErrDeadlineExceeded):
		seen = append(seen, "the connection hangs")
	default:
		seen = append(seen, "the connection ends")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(seen, s.lines...)
}

// clientSees reads one response, with the interim ones before.
func clientSees(in *bufio.Reader, number int, isHead bool) (lines []string) {
	add := func(format string, args ...any) {
		lines = append(lines, fmt.Sprintf("client %d: ", number)+fmt.Sprintf(format, args...))
	}
	request := &http.Request{Method: http.MethodGet}
	if isHead {
		request.Method = http.MethodHead
	}
	for {
		r, err := http.ReadResponse(in, request)
		if err != nil {
			add("no answer")
			return lines
		}
		add("%s %d", r.Proto, r.StatusCode)
		for name, values := range r.Header {
			switch name {
			case "Date", "Server", "Connection", "Keep-Alive": // each proxy's own
			default:
				add("%s: %q", name, values)
			}
		}
		if r.StatusCode < 200 && r.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		if r.StatusCode >= 400 {
			io.Copy(io.Discard, r.Body) // a page of the proxy's own
			return lines
		}
		if r.StatusCode != http.StatusSwitchingProtocols {
			body, err := io.ReadAll(r.Body)
			add("body %q, length %d, %v, whole: %v", body, r.ContentLength, r.TransferEncoding, err == nil)
			for name, values := range r.Trailer {
				add("trailer %s: %q", name, values)
			}
		}
		return lines
	}
}

// without is what a has and b has not.
func without(a, b []string) (rest []string) {
	for _, line := range a {
		if !slices.Contains(b, line) {
			rest = append(rest, ports.ReplaceAllString(line, "PORT"))
		}
	}
	return rest
}

var ports = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// difference is one between the two that is meant: lines of either side in some
// exchanges, and why.
type difference struct {
	exchanges []string
	line      *regexp.Regexp
	why       string
}

// differs explains lines that match in exchanges, which are separated by semicolons.
func differs(exchanges, line, why string) difference {
	return difference{strings.Split(exchanges, "; "), regexp.MustCompile(line), why}
}

var differences = []difference{
	differs("HEAD, chunked", `client 1: body "", length -1`, "the gateway passes on how the body of a GET would be framed (RFC 9110, section 9.3.2), nginx does not"),
	differs("response with trailers; response with trailers that nobody asked for", `trailer X-Sum|backend 1: Te`, "trailers, and that the client takes them, pass through the gateway (gRPC needs it); nginx drops both"),
	differs("response until the end", `client 1: body "hello"|the connection`, "the gateway ends the connection with the body, nginx wraps it in chunks"),
	differs("early hints; 100 that nobody asked for", `the connection|HTTP/1.1 100`, "nginx before 1.29 takes an interim response for the final one; the gateway passes 103 on, and not a 100 that nobody asked for"),
	differs("response with two lengths; response with length and chunks", `client 1|the connection`, "what can be read in two ways the gateway answers with 502 (RFC 9112, section 6.3); nginx takes one of the two"),
	differs("response that is none", `client 1`, "nginx passes on what it cannot read as HTTP/0.9"),
	differs("no response", `client 1: (Content|X-)|the connection`, "the page of an error is each proxy's own; after one of its own the gateway closes"),
	differs("chunked request; request with trailers", `body|Content-Length`, "the gateway passes chunks on as they are; nginx has them all in one buffer here, and counts"),
	differs("request with trailers", `trailer X-Sum|Trailer:`, "trailers pass through the gateway; nginx announces trailers that it drops"),
	differs("Expect", `Expect`, "the gateway leaves it to the backend whether it wants the body; nginx answers by itself"),
	differs("absolute target against Host", `Host:`, "the target counts (RFC 9112, section 3.2.2); with $http_host nginx forwards the other one"),
	differs("asterisk", `client 1|the connection`, "OPTIONS * asks the gateway what it can (RFC 9110, section 9.3.7); nginx does not know it"),
	differs("half-close; half-close, unusual; half-close after a body", `.`, "a client that has closed its side gets its answer from the gateway (RFC 9112, section 9.6 and TCP allow it); nginx takes it for gone"),
	differs("HTTP/1.0; HTTP/1.0, chunked response; HTTP/1.0 that stays", `HTTP/1.[01] 200`, "both versions are right (RFC 9110, section 2.5)"),
	differs("fields of the hop", `nginx \| backend 1: (Proxy-|X-Secret)`, "the gateway removes what concerns this hop and what Connection names (RFC 9110, section 7.6.1), nginx does not"),
	differs("name with an underscore", `X_a`, "nginx drops names with underscores unless told otherwise; they are tokens"),
	differs("upgrade; upgrade that is not wanted", `Connection: \["(u|U)pgrade"\]`, "letters of a token that has no case"),
	differs("upgrade that is not wanted", `the connection`, "what follows was sent by a client that expected another protocol: the gateway takes no more from it"),
	differs("CONNECT", `client 1|the connection`, "neither is a proxy for other destinations: 405 with the methods that are allowed, or 400"),
	differs("TRACE", `.`, "nginx refuses TRACE; the gateway leaves it to the backend, which sees no credentials that it would not see otherwise"),
}

func exchanges() []exchangeCase {
	head := func(method, target, fields string) string {
		return method + " " + target + " HTTP/1.1\r\nHost: shop.test\r\n" + fields + "\r\n"
	}
	const chunkedBody = "5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n"
	return []exchangeCase{
		{name: "GET", send: head("GET", "/a?b=c", "Accept: */*\r\nUser-Agent: test\r\n")},
		{name: "HEAD", send: head("HEAD", "/a", ""), answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", isHead: true},
		{name: "HEAD, chunked", send: head("HEAD", "/a", ""), answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", isHead: true},
		{name: "204", send: head("DELETE", "/a", ""), answer: "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"},
		{name: "204 with a length", send: head("DELETE", "/a", ""), answer: "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"},
		{name: "304", send: head("GET", "/a", "If-None-Match: \"x\"\r\n"), answer: "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"},
		{name: "304 with a length", send: head("GET", "/a", ""), answer: "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 100\r\n\r\n"},
		{name: "redirect", send: head("GET", "/a", ""), answer: "HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n"},
		{name: "206", send: head("GET", "/a", "Range: bytes=0-1\r\n"), answer: "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/3\r\nContent-Length: 2\r\n\r\nye"},
		{name: "chunked response", send: head("GET", "/a", ""), answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunkedBody},
		{name: "response with trailers", send: head("GET", "/a", "TE: trailers\r\nConnection: TE\r\n"), answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"},
		{name: "response with trailers that nobody asked for", send: head("GET", "/a", ""), answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"},
		{name: "response until the end", send: head("GET", "/a", ""), answer: "HTTP/1.1 200 OK\r\n\r\nhelloEOF"},
		{name: "HTTP/1.0 response", send: head("GET", "/a", ""), answer: "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhelloEOF"},
		{name: "response without a reason", send: head("GET", "/a", ""), answer: "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"},
		{name: "unknown status", send: head("GET", "/a", ""), answer: "HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n"},
		{name: "error of the backend", send: head("GET", "/a", ""), answer: "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad"},
		{name: "two cookies set", send: head("GET", "/a", "Cookie: a=b\r\nCookie: c=d\r\n"), answer: "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 0\r\n\r\n"},
		{name: "early hints", send: head("GET", "/a", ""), answer: "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + usualAnswer, hangs: true},
		{name: "100 that nobody asked for", send: head("GET", "/a", ""), answer: "HTTP/1.1 100 Continue\r\n\r\n" + usualAnswer, hangs: true},
		{name: "fields of the hop in a response", send: head("GET", "/a", ""), answer: "HTTP/1.1 200 OK\r\nConnection: X-Secret\r\nX-Secret: a\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n"},
		{name: "response with two lengths", send: head("GET", "/a", ""), answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nyesEOF"},
		{name: "response with length and chunks", send: head("GET", "/a", ""), answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + chunkedBody + "EOF"},
		{name: "response that is cut", send: head("GET", "/a", ""), answer: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhelloEOF"},
		{name: "no response", send: head("POST", "/a", "Content-Length: 1\r\n") + "x", answer: "EOF"},
		{name: "response that is none", send: head("GET", "/a", ""), answer: "220 smtp.example.com\r\n\r\nEOF"},

		{name: "POST", send: head("POST", "/a", "Content-Length: 5\r\n") + "hello"},
		{name: "POST without a body", send: head("POST", "/a", "")},
		{name: "PUT of nothing", send: head("PUT", "/a", "Content-Length: 0\r\n")},
		{name: "DELETE with a body", send: head("DELETE", "/a", "Content-Length: 5\r\n") + "hello"},
		{name: "GET with a body", send: head("GET", "/a", "Content-Length: 5\r\n") + "hello"},
		{name: "chunked request", send: head("POST", "/a", "Transfer-Encoding: chunked\r\n") + chunkedBody},
		{name: "request with trailers", send: head("POST", "/a", "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n") + "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"},
		{name: "Expect", send: head("POST", "/a", "Expect: 100-continue\r\nContent-Length: 5\r\n") + "hello"},
		{name: "absolute target", send: "GET http://shop.test/a?b HTTP/1.1\r\nHost: shop.test\r\n\r\n"},
		{name: "absolute target against Host", send: "GET http://shop.test/a HTTP/1.1\r\nHost: other.test\r\n\r\n"},
		{name: "asterisk", send: head("OPTIONS", "*", "")},
		{name: "host with a port", send: "GET /a HTTP/1.1\r\nHost: shop.test:8080\r\n\r\n"},
		{name: "encoded path", send: head("GET", "/a%2Fb%20c%41", "")},
		{name: "two slashes", send: head("GET", "//a//b", "")},
		{name: "odd query", send: head("GET", "/a?b;c=%zz&d=|", "")},
		{name: "pipelining", send: head("GET", "/a", "") + head("POST", "/b", "Content-Length: 2\r\n") + "hi", answers: 2},
		{name: "half-close", send: head("GET", "/a", ""), halfClose: true},
		{name: "half-close, unusual", send: head("GET", "/a%2fb", ""), halfClose: true},
		{name: "half-close after a body", send: head("POST", "/a", "Content-Length: 5\r\n") + "hello", halfClose: true},
		{name: "close", send: head("GET", "/a", "Connection: close\r\n")},
		{name: "HTTP/1.0", send: "GET /a HTTP/1.0\r\nHost: shop.test\r\n\r\n"},
		{name: "HTTP/1.0, chunked response", send: "GET /a HTTP/1.0\r\nHost: shop.test\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunkedBody},
		{name: "HTTP/1.0 that stays", send: "GET /a HTTP/1.0\r\nHost: shop.test\r\nConnection: keep-alive\r\n\r\n"},
		{name: "fields of the hop", send: head("GET", "/a", "Connection: X-Secret\r\nX-Secret: a\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: a\r\nTE: gzip\r\n")},
		{name: "name with an underscore", send: head("GET", "/a", "X_A: b\r\n")},
		{name: "bytes above ASCII", send: head("GET", "/a", "X-A: \xe4\r\n")},
		{name: "one name twice", send: head("GET", "/a", "Accept: a\r\nAccept: b\r\nX-A: c\r\nX-A: d\r\n")},
		{name: "upgrade", send: head("GET", "/a", "Connection: Upgrade\r\nUpgrade: websocket\r\n"), answer: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nEOF"},
		{name: "upgrade that is not wanted", send: head("GET", "/a", "Connection: Upgrade\r\nUpgrade: websocket\r\n")},
		{name: "unknown method", send: head("BREW", "/a", "")},
		{name: "CONNECT", send: "CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test\r\n\r\n"},
		{name: "TRACE", send: head("TRACE", "/a", "")},
	}
}
