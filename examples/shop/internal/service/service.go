// Package service is the frame every service of the shop runs in: an HTTP server
// with health endpoints, metrics, structured logs and an orderly end.
//
// The order of the end matters behind any load balancer: on SIGTERM the service
// first says on /readyz that it leaves, goes on answering for a moment while the
// news spreads, then finishes what is in flight and exits with status 0.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	defaultAddress = ":8080"
	// drainDelay is how long the service answers after it was told to stop.
	drainDelay = 1500 * time.Millisecond
	// finishTime is how long requests in flight may take after that.
	finishTime  = 6 * time.Second
	readyTime   = 2 * time.Second
	checkTime   = 2 * time.Second
	headerLimit = 5 * time.Second
)

// Service is one running service. Setup functions add routes to Mux.
type Service struct {
	Name string
	Mux  *http.ServeMux
	Log  *slog.Logger

	ready    []func(context.Context) error
	stop     []func()
	draining atomic.Bool
}

// Main runs a service until SIGTERM or SIGINT and ends the process. With the
// argument "check" it only asks the running service whether it is ready, which is
// what a container's health check needs where there is no curl.
func Main(name string, setup func(context.Context, *Service) error) {
	if len(os.Args) == 2 && os.Args[1] == "check" {
		if err := check(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil)).With("service", name)
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	if err := run(ctx, name, log, setup); err != nil {
		log.Error("stopped", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, name string, log *slog.Logger, setup func(context.Context, *Service) error) error {
	s := &Service{Name: name, Mux: http.NewServeMux(), Log: log}
	if err := setup(ctx, s); err != nil {
		return err
	}
	defer func() {
		for _, stop := range s.stop {
			stop()
		}
	}()
	server := &http.Server{Addr: Env("LISTEN", defaultAddress), Handler: s.handler(), ReadHeaderTimeout: headerLimit}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	log.Info("started", "listen", server.Addr)
	select {
	case err := <-failed:
		return fmt.Errorf("listen on %s: %w", server.Addr, err)
	case <-ctx.Done():
	}
	s.draining.Store(true)
	log.Info("leaving", "in", drainDelay.String())
	time.Sleep(drainDelay)
	finish, cancel := context.WithTimeout(context.Background(), finishTime)
	defer cancel()
	if err := server.Shutdown(finish); err != nil {
		return fmt.Errorf("finish the requests in flight: %w", err)
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	log.Info("stopped")
	return nil
}

// ReadyWhen adds a condition for receiving traffic.
func (s *Service) ReadyWhen(check func(context.Context) error) { s.ready = append(s.ready, check) }

// OnStop runs f after the last request.
func (s *Service) OnStop(f func()) { s.stop = append(s.stop, f) }

// handler puts health and metrics beside the service's own routes.
func (s *Service) handler() http.Handler {
	root := http.NewServeMux()
	root.Handle("GET /metrics", promhttp.Handler())
	root.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	root.HandleFunc("GET /readyz", s.serveReady)
	root.Handle("/", s.observe(s.Mux))
	return root
}

func (s *Service) serveReady(w http.ResponseWriter, r *http.Request) {
	if s.draining.Load() {
		http.Error(w, "leaving", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyTime)
	defer cancel()
	for _, ready := range s.ready {
		if err := ready(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprintln(w, "ready")
}

func check() error {
	client := http.Client{Timeout: checkTime}
	address := Env("LISTEN", defaultAddress)
	if address[0] == ':' {
		address = "127.0.0.1" + address
	}
	resp, err := client.Get("http://" + address + "/readyz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", resp.Status)
	}
	return nil
}

// Env reads an environment variable.
func Env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// Secret reads what the environment variable NAME_FILE points to, or NAME.
func Secret(name string) (string, error) {
	path := os.Getenv(name + "_FILE")
	if path == "" {
		return os.Getenv(name), nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read %s_FILE: %w", name, err)
	}
	for len(content) > 0 && content[len(content)-1] == '\n' {
		content = content[:len(content)-1]
	}
	return string(content), nil
}
