package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	attemptTime = 3 * time.Second
	firstPause  = 50 * time.Millisecond
	lastPause   = time.Second
	answerLimit = 1 << 20
)

// Client calls another service of the shop. Calls are repeated until the context
// ends while the other side is away, which is safe because every call is either a
// read, or sets a state, or carries an idempotency key.
type Client struct {
	base string
	http *http.Client
}

// NewClient returns a client for the service at base, as "http://cart:8080".
func NewClient(base string) *Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	transport.IdleConnTimeout = 10 * time.Second
	return &Client{base: base, http: &http.Client{Transport: transport, Timeout: attemptTime}}
}

// StatusError is an answer that is not a success and that repeating cannot mend.
type StatusError struct {
	Code    int
	Message string
}

func (e *StatusError) Error() string { return fmt.Sprintf("%s (status %d)", e.Message, e.Code) }

// Call sends in as JSON, when not nil, and decodes the answer into out, when not nil.
func (c *Client) Call(ctx context.Context, method, path, key string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	var err error
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		var again bool
		if again, err = c.attempt(ctx, method, path, key, body, out); err == nil || !again {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s %s%s: %w", method, c.base, path, err)
		case <-time.After(pause):
		}
	}
	if err != nil {
		return fmt.Errorf("%s %s%s: %w", method, c.base, path, err)
	}
	return nil
}

// attempt reports whether it may help to try again.
func (c *Client) attempt(ctx context.Context, method, path, key string, body []byte, out any) (again bool, err error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	request.Header.Set("Content-Type", "application/json")
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	resp, err := c.http.Do(request)
	if err != nil {
		return !errors.Is(err, context.Canceled), err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if err != nil {
		return true, err
	}
	switch {
	case resp.StatusCode == http.StatusBadGateway, resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusGatewayTimeout:
		return true, &StatusError{resp.StatusCode, string(bytes.TrimSpace(content))}
	case resp.StatusCode >= 300:
		return false, &StatusError{resp.StatusCode, string(bytes.TrimSpace(content))}
	case out == nil:
		return false, nil
	}
	return false, json.Unmarshal(content, out)
}

// WriteJSON answers with v.
func WriteJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}

// Fail answers with an error: its own status where it has one, else 503, which
// tells callers that trying again may help.
func (s *Service) Fail(w http.ResponseWriter, r *http.Request, err error) {
	code := http.StatusServiceUnavailable
	var status *StatusError
	if errors.As(err, &status) {
		code = status.Code
	}
	s.Log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "code", code, "error", err)
	http.Error(w, err.Error(), code)
}
