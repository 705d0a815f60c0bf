package script

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/rogpeppe/go-internal/testscript"
)

// tokens plays an issuer: tokens ISSUER NAME=SCOPE[,expired]... writes its public keys to
// jwks.json and tokens to the environment.
func tokens(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: tokens ISSUER NAME=SCOPE[,expired]...")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	public, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "one", Algorithm: "ES256", Use: "sig"}}})
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("jwks.json"), public, 0o600))
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "one"))
	ts.Check(err)
	for _, arg := range args[1:] {
		name, scope, _ := strings.Cut(arg, "=")
		scope, expired := strings.CutSuffix(scope, ",expired")
		until := time.Now().Add(time.Hour)
		if expired {
			until = time.Now().Add(-time.Hour)
		}
		token, err := jwt.Signed(signer).Claims(jwt.Claims{Issuer: args[0], Subject: "alice", Expiry: jwt.NewNumericDate(until)}).
			Claims(map[string]any{"scope": scope}).Serialize()
		ts.Check(err)
		ts.Setenv(name, token)
	}
}

// prometheus plays a Prometheus server, whose address is $PROMETHEUS: whatever it is asked, the
// answer is the number in the file.
func prometheus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: prometheus FILE")
	}
	path := ts.MkAbs(args[0])
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		number, err := os.ReadFile(path)
		if err != nil || r.URL.Path != "/api/v1/query" || r.FormValue("query") == "" {
			http.Error(w, `{"status":"error","errorType":"bad_data","error":"no such thing"}`, http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[%d,"%s"]}]}}`, time.Now().Unix(), strings.TrimSpace(string(number)))
	}))
	ts.Defer(server.Close)
	ts.Setenv("PROMETHEUS", server.URL)
}

// sink plays what is told of alerts by webhook, at $SINK: whatever it is sent becomes a line of the file.
func sink(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sink FILE")
	}
	file, err := os.OpenFile(ts.MkAbs(args[0]), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = file.Write(append(body, '\n'))
	}))
	ts.Defer(func() { server.Close(); file.Close() })
	ts.Setenv("SINK", server.URL)
}
