package registry

import (
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
)

func TestAnAddressOfAllInterfacesHasTLSForStrangersAndPlainHTTPForThisMachine(t *testing.T) {
	l, err := Listen("0.0.0.0:0")
	must(t, err)
	if l.TLS == nil {
		t.Fatal("no TLS")
	}
	say := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
	}
	ended := make(chan error, 2)
	go func() { ended <- http.Serve(l.Plain, say("this machine")) }()
	go func() { ended <- http.Serve(l.TLS, say("a stranger")) }()
	_, port, err := net.SplitHostPort(l.Name)
	must(t, err)
	for url, want := range map[string]string{"http://" + l.Name: "this machine", "http://" + net.JoinHostPort(otherAddress(t), port): "a stranger"} {
		resp, err := http.Get(url)
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, errors.Join(err, resp.Body.Close()))
		if string(body) != want {
			t.Errorf("%s is answered as %q", url, body)
		}
	}
	must(t, l.Plain.Close())
	for range 2 {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ended with %v", err)
		}
	}
}

// otherAddress is one of this machine's that is not loopback.
func otherAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range all {
		if ip := a.(*net.IPNet).IP; ip.IsGlobalUnicast() && ip.To4() != nil {
			return ip.String()
		}
	}
	t.Skip("this machine has no address but loopback")
	return ""
}

func TestALoopbackAddressHasNoTLS(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	must(t, err)
	defer l.Plain.Close()
	if l.TLS != nil || l.Name != l.Plain.Addr().String() {
		t.Errorf("%+v", l)
	}
}
