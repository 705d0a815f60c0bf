// Package acmetest runs a certificate authority for tests: Let's Encrypt's pebble, in the
// process of the test, for which every host name is this machine.
//
// Imported by tests of the gateway only.
package acmetest

import (
	"io"
	"log"
	"net"
	"net/http/httptest"
	"testing"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

// Directory is the path of the authority's directory.
const Directory = wfe.DirectoryPath

// Authority runs until the test ends. It asks challenges of type http-01 at a port of this
// machine.
func Authority(t *testing.T, port int) *httptest.Server {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "20") // clients must cope with that
	port53, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	names := &dns.Server{Listener: port53, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(answer) // the authority asks again
	})}
	go func() { _ = names.ActivateAndServe() }() // it ends with Shutdown
	t.Cleanup(func() { _ = names.Shutdown() })

	quiet, store := log.New(io.Discard, "", 0), db.NewMemoryStore()
	issuer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: 3600}})
	validator := va.New(quiet, port, 1, false, port53.Addr().String(), store)
	frontend := wfe.New(quiet, store, validator, issuer, []string{"test"}, false, false, 1, 1)
	server := httptest.NewTLSServer(frontend.Handler())
	t.Cleanup(server.Close)
	return server
}
