package app

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"time"
)

const (
	// routePatience is how long the gateway may take to notice what the API
	// server knows already. It is milliseconds in practice.
	routePatience = 3 * time.Second
	routeInterval = 20 * time.Millisecond
	routeTimeout  = 2 * time.Second
)

// awaitRoutes asks this machine's gateway for each URL until it sends requests
// on, so that who opens the URL at once is not told to come back. It fails
// nothing: a gateway elsewhere cannot be asked from here.
func (c *cluster) awaitRoutes(ctx context.Context, urls []string) {
	ctx, cancel := context.WithTimeout(ctx, routePatience)
	defer cancel()
	for _, target := range urls {
		u, err := url.Parse(target)
		if err != nil || u.Scheme != "http" {
			continue
		}
		for !routed(ctx, u) {
			if pause(ctx, routeInterval) != nil {
				return
			}
		}
	}
}

// routed is whether anything but the gateway itself answers, or nobody.
func routed(ctx context.Context, u *url.URL) bool {
	port := u.Port()
	if port == "" {
		port = "80"
	}
	client := http.Client{
		Timeout:       routeTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
		}},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, u.String(), nil)
	if err != nil {
		return true
	}
	resp, err := client.Do(request)
	if err != nil {
		return true
	}
	resp.Body.Close()
	// The gateway refuses with a problem document (RFC 9457).
	refused := resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusNotFound
	return !refused || resp.Header.Get("Content-Type") != "application/problem+json"
}
