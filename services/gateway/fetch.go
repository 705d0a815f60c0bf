package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gantryhq/gantry/services/gateway/guard"
)

// maxKeysDocument bounds what a server of keys may send.
const maxKeysDocument = 1 << 20

// keysClient does not keep connections: keys are read every few minutes.
var keysClient = &http.Client{
	Timeout:   10 * time.Second,
	Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSHandshakeTimeout: 5 * time.Second, MaxResponseHeaderBytes: 64 << 10},
}

// fetchKeys reads a JSON Web Key Set, at the address itself or where a provider's
// configuration says.
func fetchKeys(ctx context.Context, url string) ([]byte, error) {
	if !strings.HasSuffix(url, guard.DiscoveryPath) {
		return fetchDocument(ctx, url)
	}
	text, err := fetchDocument(ctx, url)
	if err != nil {
		return nil, err
	}
	var provider struct {
		Keys string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(text, &provider); err != nil || provider.Keys == "" {
		return nil, errors.New("the provider's configuration has no jwks_uri")
	}
	return fetchDocument(ctx, provider.Keys)
}

func fetchDocument(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := keysClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answered %s", response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxKeysDocument+1))
	if len(text) > maxKeysDocument {
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxKeysDocument)
	}
	return text, err
}
