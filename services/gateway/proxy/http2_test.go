package proxy

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// rawHTTP2 is a client that says what it likes.
type rawHTTP2 struct {
	net.Conn
	*http2.Framer
	t      *testing.T
	fields *hpack.Encoder
	block  bytes.Buffer
}

// dial opens an HTTP/2 connection, by ALPN or by prior knowledge, up to the
// server's SETTINGS.
func (g *attacked) dial(t *testing.T, secure bool) *rawHTTP2 {
	t.Helper()
	c := &rawHTTP2{t: t}
	var err error
	if secure {
		c.Conn, err = tls.Dial("tcp", g.secure, &tls.Config{ServerName: "shop.test", InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	} else {
		c.Conn, err = net.Dial("tcp", g.address)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	c.Framer = http2.NewFramer(c.Conn, c.Conn)
	c.Framer.AllowIllegalWrites = true
	c.Framer.SetMaxReadFrameSize(1 << 20)
	c.fields = hpack.NewEncoder(&c.block)
	c.send([]byte(http2.ClientPreface))
	c.must(c.WriteSettings())
	return c
}

func (c *rawHTTP2) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// send writes bytes; that the gateway has closed meanwhile is no failure.
func (c *rawHTTP2) send(b []byte) { _, _ = c.Conn.Write(b) }

// frame writes a frame of any kind.
func (c *rawHTTP2) frame(kind http2.FrameType, flags http2.Flags, stream uint32, payload string) {
	head := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	head = append(head, byte(flags))
	c.send(append(binary.BigEndian.AppendUint32(head, stream), payload...))
}

// encode makes a header block of names and values.
func (c *rawHTTP2) encode(fields ...string) string {
	c.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		c.must(c.fields.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return c.block.String()
}

// request is a whole request for this path, with more fields.
func (c *rawHTTP2) request(stream uint32, path string, more ...string) {
	c.frame(http2.FrameHeaders, endHeaders|endStream, stream, c.encode(append([]string{":method", "GET", ":scheme", "http", ":authority", "shop.test", ":path", path}, more...)...))
}

const (
	endStream  = http2.FlagHeadersEndStream
	endHeaders = http2.FlagHeadersEndHeaders
)

// outcome is what a stream or the connection came to.
type outcome struct {
	status string        // of the response on the stream
	reset  http2.ErrCode // RST_STREAM
	goAway http2.ErrCode // GOAWAY
	closed bool          // end of the connection
	pong   bool          // acknowledgement of a PING
}

func (o outcome) String() string {
	switch {
	case o.status != "":
		return "status " + o.status
	case o.pong:
		return "PING acknowledged"
	case o.goAway != 0:
		return "GOAWAY " + o.goAway.String()
	case o.reset != 0:
		return "RST_STREAM " + o.reset.String()
	case o.closed:
		return "closed"
	}
	return "nothing"
}

// await reads frames until something becomes of the stream, or of the connection.
func (c *rawHTTP2) await(stream uint32) outcome {
	c.t.Helper()
	decoder := hpack.NewDecoder(4096, nil)
	for {
		f, err := c.ReadFrame()
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.t.Fatal("nothing became of it")
			}
			return outcome{closed: true}
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				return outcome{goAway: f.ErrCode}
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return outcome{reset: f.ErrCode}
			}
		case *http2.PingFrame:
			if f.IsAck() && stream == 0 {
				return outcome{pong: true}
			}
		case *http2.HeadersFrame:
			fields, err := decoder.DecodeFull(f.HeaderBlockFragment())
			if err == nil && f.StreamID == stream {
				return outcome{status: fields[0].Value}
			}
		}
	}
}

// TestHTTP2IsStrict checks the rules of RFC 9113 that concern what a client may
// send, on streams of a connection that are otherwise in order.
func TestHTTP2IsStrict(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS=%v", secure), func(t *testing.T) {
			w := newWitness(t)
			g := attackedGateway(t, w)
			for _, c := range http2Checks() {
				t.Run(c.name, func(t *testing.T) {
					conn := g.dial(t, secure)
					c.send(conn)
					stream := c.stream
					if stream == 0 && c.want != "PING acknowledged" {
						stream = 1
					}
					got := conn.await(stream).String()
					for _, want := range strings.Split(c.want, "|") {
						if got == want {
							return
						}
					}
					t.Errorf("RFC 9113, %s: %s, want %s", c.section, got, c.want)
				})
			}
			requests, _ := w.seen()
			for _, r := range requests {
				if strings.Contains(r, "bad") {
					t.Errorf("the backend got %q", r)
				}
			}
		})
	}
}

type http2Check struct {
	name, section string
	stream        uint32 // that is looked at; 0 is 1, or the connection
	send          func(c *rawHTTP2)
	want          string // or several, with | between
}

// Errors of a connection may be told by GOAWAY or, where a peer may be malicious,
// by closing (5.4.1); those of a stream may be treated as of the connection (5.4.2).
const (
	protocolError   = "GOAWAY PROTOCOL_ERROR|closed"
	streamProtocol  = "RST_STREAM PROTOCOL_ERROR|GOAWAY PROTOCOL_ERROR|closed|status 400"
	frameSizeError  = "GOAWAY FRAME_SIZE_ERROR|closed"
	compressionBad  = "GOAWAY COMPRESSION_ERROR|closed"
	flowControlBad  = "GOAWAY FLOW_CONTROL_ERROR|closed"
	streamClosedBad = "GOAWAY STREAM_CLOSED|RST_STREAM STREAM_CLOSED|GOAWAY PROTOCOL_ERROR|closed"
)

func http2Checks() []http2Check {
	checks := []http2Check{
		{name: "a request", section: "8.1", send: func(c *rawHTTP2) { c.request(1, "/good") }, want: "status 200"},
		{name: "PING", section: "6.7", send: func(c *rawHTTP2) { c.frame(http2.FramePing, 0, 0, "12345678") }, want: "PING acknowledged"},
		{name: "unknown frame is ignored", section: "4.1", send: func(c *rawHTTP2) { c.frame(0x77, 0xff, 0, "x"); c.request(1, "/good") }, want: "status 200"},
		{name: "unknown setting is ignored", section: "6.5.2", send: func(c *rawHTTP2) {
			c.frame(http2.FrameSettings, 0, 0, "\x77\x77\x00\x00\x00\x01")
			c.request(1, "/good")
		}, want: "status 200"},
		{name: "priority is ignored", section: "5.3", send: func(c *rawHTTP2) { c.frame(http2.FramePriority, 0, 1, "\x00\x00\x00\x00\x10"); c.request(1, "/good") }, want: "status 200"},
		{name: "CONTINUATION", section: "6.10", send: func(c *rawHTTP2) {
			block := c.encode(":method", "GET", ":scheme", "http", ":authority", "shop.test", ":path", "/good")
			c.frame(http2.FrameHeaders, endStream, 1, block[:5])
			c.frame(http2.FrameContinuation, endHeaders, 1, block[5:])
		}, want: "status 200"},
	}
	checks = append(checks, frameChecks()...)
	checks = append(checks, streamChecks()...)
	return append(checks, fieldChecks()...)
}

func frameChecks() []http2Check {
	frame := func(kind http2.FrameType, flags http2.Flags, stream uint32, payload string) func(*rawHTTP2) {
		return func(c *rawHTTP2) { c.frame(kind, flags, stream, payload) }
	}
	setting := func(id uint16, value uint32) func(*rawHTTP2) {
		return frame(http2.FrameSettings, 0, 0, string(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, id), value)))
	}
	return []http2Check{
		{name: "frame that is too large", section: "4.2", send: func(c *rawHTTP2) {
			c.frame(http2.FrameData, 0, 1, strings.Repeat("x", 2<<20))
		}, want: frameSizeError},
		{name: "DATA on stream 0", section: "6.1", send: frame(http2.FrameData, 0, 0, "x"), want: protocolError},
		{name: "HEADERS on stream 0", section: "6.2", send: frame(http2.FrameHeaders, endHeaders, 0, "x"), want: protocolError},
		{name: "RST_STREAM on stream 0", section: "6.4", send: frame(http2.FrameRSTStream, 0, 0, "\x00\x00\x00\x08"), want: protocolError},
		{name: "RST_STREAM of 3 bytes", section: "6.4", send: func(c *rawHTTP2) { c.request(1, "/good"); c.frame(http2.FrameRSTStream, 0, 1, "\x00\x00\x08") }, want: frameSizeError, stream: 3},
		{name: "SETTINGS on a stream", section: "6.5", send: frame(http2.FrameSettings, 0, 1, ""), want: protocolError},
		{name: "SETTINGS of 5 bytes", section: "6.5", send: frame(http2.FrameSettings, 0, 0, "\x00\x01\x00\x00\x00"), want: frameSizeError},
		{name: "acknowledgement of SETTINGS with bytes", section: "6.5", send: frame(http2.FrameSettings, http2.FlagSettingsAck, 0, "\x00\x01\x00\x00\x00\x01"), want: frameSizeError},
		{name: "ENABLE_PUSH of 2", section: "6.5.2", send: setting(2, 2), want: protocolError},
		{name: "window of 2^31", section: "6.5.2", send: setting(4, 1<<31), want: flowControlBad},
		{name: "frame size below 16384", section: "6.5.2", send: setting(5, 16383), want: protocolError},
		{name: "frame size above 2^24-1", section: "6.5.2", send: setting(5, 1<<24), want: protocolError},
		{name: "PUSH_PROMISE of a client", section: "6.6", send: frame(http2.FramePushPromise, endHeaders, 1, "\x00\x00\x00\x02"), want: protocolError},
		{name: "PING on a stream", section: "6.7", send: frame(http2.FramePing, 0, 1, "12345678"), want: protocolError},
		{name: "PING of 6 bytes", section: "6.7", send: frame(http2.FramePing, 0, 0, "123456"), want: frameSizeError},
		{name: "GOAWAY on a stream", section: "6.8", send: frame(http2.FrameGoAway, 0, 1, "\x00\x00\x00\x00\x00\x00\x00\x00"), want: protocolError},
		{name: "WINDOW_UPDATE of 0", section: "6.9", send: frame(http2.FrameWindowUpdate, 0, 0, "\x00\x00\x00\x00"), want: protocolError},
		{name: "WINDOW_UPDATE of 3 bytes", section: "6.9", send: frame(http2.FrameWindowUpdate, 0, 0, "\x00\x00\x01"), want: frameSizeError},
		{name: "WINDOW_UPDATE beyond 2^31-1", section: "6.9.1", send: frame(http2.FrameWindowUpdate, 0, 0, "\x7f\xff\xff\xff"), want: flowControlBad},
		{name: "padding longer than the frame", section: "6.1", send: func(c *rawHTTP2) {
			c.frame(http2.FrameHeaders, endHeaders, 1, c.encode(":method", "POST", ":scheme", "http", ":authority", "shop.test", ":path", "/bad"))
			c.frame(http2.FrameData, http2.FlagDataPadded, 1, "\x7fx")
		}, want: protocolError},
		{name: "no preface", section: "3.4", send: func(c *rawHTTP2) { c.send([]byte("GET / HTTP/1.1\r\n\r\n")) }, want: protocolError + "|" + frameSizeError},
	}
}

func streamChecks() []http2Check {
	return []http2Check{
		{name: "DATA on an idle stream", section: "5.1", send: func(c *rawHTTP2) { c.frame(http2.FrameData, endStream, 1, "x") }, want: protocolError},
		{name: "RST_STREAM on an idle stream", section: "5.1", send: func(c *rawHTTP2) { c.frame(http2.FrameRSTStream, 0, 1, "\x00\x00\x00\x08") }, want: protocolError},
		{name: "WINDOW_UPDATE on an idle stream", section: "5.1", send: func(c *rawHTTP2) { c.frame(http2.FrameWindowUpdate, 0, 1, "\x00\x00\x00\x01") }, want: protocolError},
		{name: "even stream", section: "5.1.1", stream: 2, send: func(c *rawHTTP2) { c.request(2, "/bad") }, want: protocolError},
		{name: "stream lower than one before", section: "5.1.1", stream: 3, send: func(c *rawHTTP2) { c.request(5, "/good"); c.request(3, "/bad") }, want: streamClosedBad + "|" + protocolError},
		// Whether the first is answered before, or reset, is a race; the second must not count.
		{name: "HEADERS after the end of a stream", section: "5.1", send: func(c *rawHTTP2) { c.request(1, "/good"); c.request(1, "/bad") }, want: "status 200|" + streamClosedBad},
		{name: "CONTINUATION without HEADERS", section: "6.10", send: func(c *rawHTTP2) { c.frame(http2.FrameContinuation, endHeaders, 1, "") }, want: protocolError},
		{name: "CONTINUATION of another stream", section: "6.10", send: func(c *rawHTTP2) {
			c.frame(http2.FrameHeaders, endStream, 1, c.encode(":method", "GET"))
			c.frame(http2.FrameContinuation, endHeaders, 3, "")
		}, want: protocolError},
		{name: "DATA within a header block", section: "6.2", send: func(c *rawHTTP2) {
			c.frame(http2.FrameHeaders, 0, 1, c.encode(":method", "POST"))
			c.frame(http2.FrameData, endStream, 1, "x")
		}, want: protocolError},
		{name: "stream that depends on itself", section: "5.3.1 of RFC 7540", send: func(c *rawHTTP2) { c.frame(http2.FramePriority, 0, 1, "\x00\x00\x00\x01\x10"); c.request(1, "/good") }, want: "status 200|" + streamProtocol},
	}
}

func fieldChecks() []http2Check {
	fields := func(name string, f ...string) http2Check {
		return http2Check{name: name, section: "8.2, 8.3", want: streamProtocol, send: func(c *rawHTTP2) {
			c.frame(http2.FrameHeaders, endHeaders|endStream, 1, c.encode(f...))
		}}
	}
	whole := func(more ...string) []string {
		return append([]string{":method", "GET", ":scheme", "http", ":authority", "shop.test", ":path", "/bad"}, more...)
	}
	body := func(name, length, data string) http2Check {
		return http2Check{name: name, section: "8.1.1", want: streamProtocol, send: func(c *rawHTTP2) {
			c.frame(http2.FrameHeaders, endHeaders, 1, c.encode(":method", "POST", ":scheme", "http", ":authority", "shop.test", ":path", "/bad", "content-length", length))
			c.frame(http2.FrameData, http2.FlagDataEndStream, 1, data)
		}}
	}
	return []http2Check{
		fields("name in capitals", whole("X-Upper", "a")...),
		fields("name with a space", whole("a b", "c")...),
		fields("name with a colon", whole("a:b", "c")...),
		fields("value with a line end", whole("a", "b\r\nhost: evil")...),
		fields("value with a zero byte", whole("a", "b\x00")...),
		fields("Connection", whole("connection", "close")...),
		fields("Transfer-Encoding", whole("transfer-encoding", "chunked")...),
		fields("Upgrade", whole("upgrade", "h2c")...),
		fields("Keep-Alive", whole("keep-alive", "5")...),
		fields("Proxy-Connection", whole("proxy-connection", "close")...),
		fields("TE other than trailers", whole("te", "gzip")...),
		fields("unknown pseudo field", whole(":test", "a")...),
		fields("pseudo field of a response", whole(":status", "200")...),
		fields("pseudo field after others", ":method", "GET", ":scheme", "http", ":authority", "shop.test", "a", "b", ":path", "/bad"),
		fields("method twice", whole(":method", "POST")...),
		fields("path twice", whole(":path", "/bad2")...),
		fields("no method", ":scheme", "http", ":authority", "shop.test", ":path", "/bad"),
		fields("no scheme", ":method", "GET", ":authority", "shop.test", ":path", "/bad"),
		fields("no path", ":method", "GET", ":scheme", "http", ":authority", "shop.test"),
		fields("empty path", ":method", "GET", ":scheme", "http", ":authority", "shop.test", ":path", ""),
		fields("path with a space", ":method", "GET", ":scheme", "http", ":authority", "shop.test", ":path", "/bad HTTP/1.1\r\nHost: evil"),
		fields("method with a space", ":method", "GET /bad HTTP/1.1", ":scheme", "http", ":authority", "shop.test", ":path", "/bad"),
		fields("authority with a slash", ":method", "GET", ":scheme", "http", ":authority", "shop.test/bad", ":path", "/bad"),
		fields("length that is no number", whole("content-length", "five")...),
		body("body shorter than its length", "5", "1234"),
		body("body longer than its length", "3", "1234"),
		{name: "trailers with a pseudo field", section: "8.1", want: streamProtocol, send: func(c *rawHTTP2) {
			c.frame(http2.FrameHeaders, endHeaders, 1, c.encode(":method", "POST", ":scheme", "http", ":authority", "shop.test", ":path", "/bad"))
			c.frame(http2.FrameHeaders, endHeaders|endStream, 1, c.encode(":method", "POST"))
		}},
		{name: "trailers that do not end the stream", section: "8.1", want: streamProtocol, send: func(c *rawHTTP2) {
			c.frame(http2.FrameHeaders, endHeaders, 1, c.encode(":method", "POST", ":scheme", "http", ":authority", "shop.test", ":path", "/bad"))
			c.frame(http2.FrameHeaders, endHeaders, 1, c.encode("a", "b"))
		}},
		{name: "index that is not in the table", section: "4.3", want: compressionBad, send: func(c *rawHTTP2) { c.frame(http2.FrameHeaders, endHeaders|endStream, 1, "\xff\xff\xff\x7f") }},
		{name: "table size above the setting", section: "4.3", want: compressionBad, send: func(c *rawHTTP2) { c.frame(http2.FrameHeaders, endHeaders|endStream, 1, "\x3f\xff\xff\x7f") }},
	}
}

// TestHTTP2FloodsAreBounded sends for a while what costs a client little. Whatever
// becomes of that connection, another client is served, and memory stays bounded.
func TestHTTP2FloodsAreBounded(t *testing.T) {
	w := newWitness(t)
	g := attackedGateway(t, w)
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for name, flood := range http2Floods() {
		t.Run(name, func(t *testing.T) {
			c := g.dial(t, false)
			go io.Copy(io.Discard, c.Conn)
			end := time.Now().Add(time.Second)
			for i := uint32(0); time.Now().Before(end); i++ {
				if err := flood(c, i); err != nil {
					t.Logf("ended after %d: %v", i, err)
					break
				}
			}
			if response, _ := g.get("shop.test", "/good"); response.StatusCode != 200 {
				t.Errorf("another client got %d", response.StatusCode)
			}
			w.seen()
		})
	}
	var after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 64<<20 {
		t.Errorf("the heap grew by %d MB", grown>>20)
	}
}

// http2Floods send the i-th piece, or say that the connection is closed.
func http2Floods() map[string]func(c *rawHTTP2, i uint32) error {
	big := strings.Repeat("x", 16<<10)
	return map[string]func(c *rawHTTP2, i uint32) error{
		"rapid reset (CVE-2023-44487)": func(c *rawHTTP2, i uint32) error {
			if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, EndStream: true, EndHeaders: true,
				BlockFragment: []byte(c.encode(":method", "GET", ":scheme", "http", ":authority", "shop.test", ":path", "/good"))}); err != nil {
				return err
			}
			return c.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		},
		"CONTINUATION (CVE-2023-45288)": func(c *rawHTTP2, i uint32) error {
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(c.encode(":method", "GET"))})
			}
			return c.WriteContinuation(1, false, []byte(c.encode("a", big)))
		},
		"PING (CVE-2019-9512)":     func(c *rawHTTP2, _ uint32) error { return c.WritePing(false, [8]byte{}) },
		"SETTINGS (CVE-2019-9515)": func(c *rawHTTP2, _ uint32) error { return c.WriteSettings() },
		"empty DATA (CVE-2019-9518)": func(c *rawHTTP2, i uint32) error {
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true,
					BlockFragment: []byte(c.encode(":method", "POST", ":scheme", "http", ":authority", "shop.test", ":path", "/good"))})
			}
			return c.WriteData(1, false, nil)
		},
		"streams that never end": func(c *rawHTTP2, i uint32) error {
			return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, EndHeaders: true,
				BlockFragment: []byte(c.encode(":method", "POST", ":scheme", "http", ":authority", "shop.test", ":path", "/good"))})
		},
		"fields that refer to large ones": func(c *rawHTTP2, i uint32) error {
			name := "cookie"
			fields := []string{":method", "GET", ":scheme", "http", ":authority", "shop.test", ":path", "/good"}
			for range 2000 {
				fields = append(fields, name, big[:2000])
			}
			return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, EndStream: true, EndHeaders: true, BlockFragment: []byte(c.encode(fields...))})
		},
	}
}

// TestAnEarlyAnswerToAnUploadOverHTTP2 has a backend answer before it has read the
// body, which the gateway may still be reading when the exchange is over.
func TestAnEarlyAnswerToAnUploadOverHTTP2(t *testing.T) {
	g := newGateway(t)
	g.rule("", "/", to("hasty"))
	hasty := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "enough") }))
	t.Cleanup(hasty.Close)
	g.endpoints("hasty", route.HTTP1, hasty)
	g.apply()
	client := &http.Transport{Protocols: new(http.Protocols)}
	client.Protocols.SetUnencryptedHTTP2(true)
	defer client.CloseIdleConnections()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 200 {
				body := io.MultiReader(strings.NewReader("some"), strings.NewReader(strings.Repeat("x", i<<8)))
				r, err := http.NewRequest("POST", "http://"+g.address+"/", body)
				if err != nil {
					t.Error(err)
					return
				}
				// Whether it is answered in full is the backend's doing, and what it has read.
				if response, err := client.RoundTrip(r); err == nil {
					io.Copy(io.Discard, response.Body)
					response.Body.Close()
				}
			}
		})
	}
	all.Wait()
	if response, _ := g.get("shop.test", "/"); response.StatusCode != 200 {
		t.Errorf("another client got %d", response.StatusCode)
	}
}
