package registry

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestAnAddressOfAllInterfacesHasTLSForStrangersAndPlainHTTPForThisMachine(t *testing.T) {
	l, err := Listen("0.0.0.0:0")
	must(t, err)
	if l.TLS == nil {
		t.Fatal("no TLS")
	}
	certificate := httptest.NewUnstartedServer(nil) // for its certificate
	certificate.StartTLS()
	defer certificate.Close()
	say := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
	}
	ended := make(chan error, 2)
	go func() { ended <- http.Serve(l.Plain, say("plain")) }()
	go func() {
		ended <- http.Serve(tls.NewListener(l.TLS, &tls.Config{Certificates: certificate.TLS.Certificates}), say("tls"))
	}()
	silent, err := net.Dial("tcp", l.Name) // holds up nobody
	must(t, err)
	defer silent.Close()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for url, want := range map[string]string{"http://" + l.Name: "plain", "https://" + l.Name: "tls"} {
		resp, err := client.Get(url)
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, errors.Join(err, resp.Body.Close()))
		if string(body) != want {
			t.Errorf("%s answers %q", url, body)
		}
	}
	must(t, l.Plain.Close())
	for range 2 {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ended with %v", err)
		}
	}
}

func TestALoopbackAddressHasNoTLS(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	must(t, err)
	defer l.Plain.Close()
	if l.TLS != nil || l.Name != l.Plain.Addr().String() {
		t.Errorf("%+v", l)
	}
}
