package pipeline

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/gantryhq/gantry/internal/hint"
)

func TestWhatTheMachineItselfServesIsNotFetched(t *testing.T) {
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	t.Cleanup(srv.Close)
	port := srv.URL[strings.LastIndexByte(srv.URL, ':'):]
	for _, url := range []string{
		srv.URL + "/x.git", "http://localhost" + port + "/x.git", "http://[::ffff:127.0.0.1]" + port + "/x.git", "http://0.0.0.0" + port + "/x.git",
		"http://169.254.169.254/latest/meta-data", "ssh://git@127.0.0.1/x.git", "git@localhost:x.git",
	} {
		r := &repository{url: url, branch: "main", cache: t.TempDir()}
		_, err := r.head(t.Context())
		if !errors.Is(err, errLocal) || !strings.Contains(hint.Of(err), "--pipeline-local-repositories") {
			t.Errorf("%s: %v (hint %q)", url, err, hint.Of(err))
		}
		var again unavailable
		if _, err := r.fetch(t.Context(), ""); !errors.Is(err, errLocal) || errors.As(err, &again) {
			t.Errorf("fetch %s: %v", url, err)
		}
	}
	if asked > 0 {
		t.Errorf("the machine was asked %d times", asked)
	}
}

func TestAddressesOfTheMachine(t *testing.T) {
	for address, local := range map[string]bool{
		"127.0.0.1": true, "127.8.8.8": true, "::1": true, "::ffff:127.0.0.1": true, "0.0.0.0": true, "::": true, "169.254.169.254": true,
		"fe80::1": true, "fe80::1%eth0": true, "fd00:ec2::254": true, "100.100.100.200": true, "224.0.0.1": true,
		"10.96.0.20": false, "192.168.1.5": false, "140.82.112.3": false, "2606:50c0::1": false, "fd00::5": false,
	} {
		if err := checkAddress(netip.MustParseAddr(address)); (err != nil) != local {
			t.Errorf("%s: %v", address, err)
		}
	}
}
