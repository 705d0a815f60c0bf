package gateway

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gantryhq/gantry/services/gateway/guard"
)

func TestKeysAreFetched(t *testing.T) {
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"keys":[]}`) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", maxKeysDocument+1)) })
	mux.HandleFunc("/a"+guard.DiscoveryPath, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":"%s/a","jwks_uri":"%s/keys"}`, server.URL, server.URL)
	})
	mux.HandleFunc("/b"+guard.DiscoveryPath, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) })
	for path, want := range map[string]string{
		"/keys": `{"keys":[]}`, "/a" + guard.DiscoveryPath: `{"keys":[]}`,
		"/b" + guard.DiscoveryPath: "", "/endless": "", "/nothing": "",
	} {
		text, err := fetchKeys(t.Context(), server.URL+path)
		if string(text) != want && err == nil || (err == nil) != (want != "") {
			t.Errorf("%s: %.40q, %v; want %q", path, text, err, want)
		}
	}
}
