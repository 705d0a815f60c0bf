package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// maxKeysDocument bounds what a server of keys may send.
const maxKeysDocument = 1 << 20

// keysClient does not keep connections: keys are read every few minutes.
var keysClient = &http.Client{
	Timeout:   10 * time.Second,
	Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSHandshakeTimeout: 5 * time.Second, MaxResponseHeaderBytes: 64 << 10},
}

// fetchKeys reads a JSON Web Key Set.
func fetchKeys(ctx context.Context, url string) ([]byte, error) {
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
