package upstream

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// A request whose connection is ready when its endpoint has left goes to another one, if there
// is any.
func TestNothingIsSentToAnEndpointThatHasLeft(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here, other := l.Addr().(*net.TCPAddr).AddrPort(), netip.MustParseAddrPort("127.0.0.1:1")
	service := route.ServicePort{Namespace: "shop", Name: "web", Port: 80}
	for _, c := range []struct {
		what   string
		rest   []netip.AddrPort
		served bool
	}{
		{"it stays", []netip.AddrPort{here, other}, true},
		{"it has left", []netip.AddrPort{other}, false},
		{"it was the last one", nil, true},
	} {
		pools := New(Config{ConnectTimeout: 5 * time.Second, Forget: func(*eventloop.Backend) {}})
		pools.Set([]route.Upstream{{Service: service, Endpoints: []netip.AddrPort{here}}}, nil)
		e := pools.Get(service).Acquire(nil, nil)
		pools.Set([]route.Upstream{{Service: service, Endpoints: c.rest}}, nil)
		conn, err := e.Transport.DialContext(t.Context(), "tcp", e.Host)
		if err == nil {
			conn.Close()
		}
		if (err == nil) != c.served || err != nil && !errors.Is(err, errLeft) {
			t.Errorf("%s: %v", c.what, err)
		}
		e.Release()
		pools.Close()
	}
}
