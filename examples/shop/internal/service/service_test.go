package service

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"
)

// A service that is told to stop first says so, goes on answering, and ends well.
func TestLeavingLosesNoRequest(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	t.Setenv("LISTEN", address)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, "test", slog.New(slog.NewTextHandler(io.Discard, nil)), func(_ context.Context, s *Service) error {
			s.Mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
			return nil
		})
	}()
	status := func(path string) (int, bool) {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			return 0, false
		}
		resp.Body.Close()
		return resp.StatusCode, resp.Close
	}
	await := func(what string, holds func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not %s within a minute", what)
			}
		}
	}
	await("ready", func() bool { code, _ := status("/readyz"); return code == http.StatusOK })
	if err := check(); err != nil {
		t.Errorf("the health check of a ready service: %v", err)
	}
	stop()
	await("leaving", func() bool { code, _ := status("/readyz"); return code == http.StatusServiceUnavailable })
	if code, closes := status("/"); code != http.StatusOK || !closes {
		t.Errorf("while leaving: status %d, connection closed: %v; want an answer and a goodbye", code, closes)
	}
	if code, _ := status("/healthz"); code != http.StatusOK {
		t.Errorf("while leaving it is still alive, got %d", code)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("did not end")
	}
}
