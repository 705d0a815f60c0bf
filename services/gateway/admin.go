package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gantryhq/gantry/services/gateway/proxy"
)

// startAdmin serves /metrics, /healthz, /readyz and /routes at a unix socket or
// a local address. With an empty address it serves nowhere.
func startAdmin(address string, registry *prometheus.Registry, dataPlane *proxy.Server, ready <-chan struct{}) (*http.Server, error) {
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-ready:
			fmt.Fprintln(w, "ok")
		default:
			http.Error(w, "the routes have not been read yet", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /routes", func(w http.ResponseWriter, _ *http.Request) { dataPlane.Table().Dump(w) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	if address == "" {
		return server, nil
	}
	listener, err := listenAdmin(address)
	if err != nil {
		return nil, fmt.Errorf("listen for administration: %w", err)
	}
	go server.Serve(listener)
	return server, nil
}

func listenAdmin(address string) (net.Listener, error) {
	if !strings.Contains(address, "/") {
		return net.Listen("tcp", address)
	}
	// A socket file that a process before left behind; a successor takes it over.
	if err := os.Remove(address); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", address)
	if err != nil {
		return nil, err
	}
	// When this process ends, the file may be its successor's.
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	return listener, os.Chmod(address, 0o600)
}
