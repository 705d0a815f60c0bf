package eventloop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"
)

// keyPair makes the configurations of both sides of a TLS connection.
func keyPair(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"h"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2", "http/1.1"}},
		&tls.Config{RootCAs: roots, ServerName: "h"}
}

// trickle sends everything byte by byte.
type trickle struct{ net.Conn }

func (c trickle) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// TestTLSRecordsInPieces guards what the loop relies on: after a temporary error
// of the connection below it, a tls.Conn reads on where it was, in the middle of
// a record's header or of its content.
func TestTLSRecordsInPieces(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		port := &Port{}
		var config *tls.Config
		port.TLS, config = keyPair(t)
		config.MaxVersion = version
		f := newFront(t, Config{}, port, served(t, echo))
		conn, err := net.Dial("tcp", f.address)
		if err != nil {
			t.Fatal(err)
		}
		conn.(*net.TCPConn).SetNoDelay(true)
		w := newWire(t, tls.Client(trickle{conn}, config))
		for i := range 5 {
			w.say(fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", i))
			if r, body := w.response("POST"); r.StatusCode != 200 || body != fmt.Sprintf("POST /%d hello", i) {
				t.Fatalf("version %x, request %d: %d %q", version, i, r.StatusCode, body)
			}
		}
		// All at once: several records wait in one read.
		for i := range 20 {
			w.say(fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", i))
		}
		for i := range 20 {
			if _, body := w.response("POST"); body != fmt.Sprintf("POST /%d hello", i) {
				t.Fatalf("pipelined response %d: %q", i, body)
			}
		}
	}
}

func TestAnotherProtocolIsHandedOverAfterTheHandshake(t *testing.T) {
	port := &Port{}
	var config *tls.Config
	port.TLS, config = keyPair(t)
	f := newFront(t, Config{}, port, served(t, echo))
	config.NextProtos = []string{"h2"}
	client, err := tls.Dial("tcp", f.address, config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server := (<-f.handed).(*tls.Conn)
	defer server.Close()
	go client.Write([]byte("PRI"))
	got := make([]byte, 3)
	if _, err := io.ReadFull(server, got); err != nil || string(got) != "PRI" || server.ConnectionState().NegotiatedProtocol != "h2" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestATLSConnectionIsHandedOverInTheMiddle(t *testing.T) {
	port := &Port{}
	var config *tls.Config
	port.TLS, config = keyPair(t)
	f := newFront(t, Config{}, port, served(t, echo))
	conn, err := tls.Dial("tcp", f.address, config)
	if err != nil {
		t.Fatal(err)
	}
	w := newWire(t, conn)
	w.say(get)
	w.response("GET")
	odd := "GET /a%2fb HTTP/1.1\r\nHost: h\r\n\r\n"
	w.say(odd)
	taken := <-f.handed
	if name := taken.(*TLSConn).ConnectionState().ServerName; name != "h" {
		t.Errorf("server name %q", name)
	}
	server := newWire(t, taken)
	server.hears(odd)
	big := bytes.Repeat([]byte("x"), 1<<20)
	go server.Write(big)
	got := make([]byte, len(big))
	if _, err := io.ReadFull(w.reader, got); err != nil || !bytes.Equal(got, big) {
		t.Errorf("after the hand-over: %v", err)
	}
}

func TestAnEndedTLSResponseIsToldFromATruncatedOne(t *testing.T) {
	port := &Port{}
	var config *tls.Config
	port.TLS, config = keyPair(t)
	address, accept := scripted(t)
	f := newFront(t, Config{}, port, address)
	conn, err := tls.Dial("tcp", f.address, config)
	if err != nil {
		t.Fatal(err)
	}
	w := newWire(t, conn)
	w.say(get)
	b := accept()
	b.say("HTTP/1.1 200 OK\r\n\r\nall")
	b.Close()
	r, err := http.ReadResponse(w.reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(r.Body); err != nil || string(body) != "all" {
		t.Errorf("%q, %v", body, err) // without close_notify: unexpected EOF
	}
}
