package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gantryhq/gantry/services/gateway/proxy"
)

// appears is how long an ending gateway gives a successor to show up: the time a
// large program needs to start.
const appears = 500 * time.Millisecond

// takesOver is how long a successor may take from there to its first routes.
const takesOver = 10 * time.Second

// admin is the process's own little server, and what tells of a successor.
type admin struct {
	http.Server
	path   string      // of the unix socket, or ""
	socket os.FileInfo // the socket that this process made
}

// startAdmin serves /metrics, /healthz, /readyz, /routes, /upstreams, /demand and /handover at a unix socket or
// a local address, and at a socket also /heap, a profile of what is in memory. With an empty address it serves nowhere.
func startAdmin(address string, registry *prometheus.Registry, dataPlane *proxy.Server, ready <-chan struct{}) (*admin, error) {
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
	mux.HandleFunc("POST /handover", handOver(dataPlane))
	mux.HandleFunc("GET /demand", streamDemand(dataPlane.Upstreams()))
	mux.HandleFunc("GET /routes", func(w http.ResponseWriter, _ *http.Request) { dataPlane.Table().Dump(w) })
	mux.HandleFunc("GET /upstreams", func(w http.ResponseWriter, _ *http.Request) { dataPlane.DumpUpstreams(w) })
	if strings.Contains(address, "/") { // which only the owner of the process can reach
		mux.HandleFunc("GET /heap", func(w http.ResponseWriter, _ *http.Request) { _ = pprof.WriteHeapProfile(w) })
	}
	a := &admin{Server: http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}}
	if address == "" {
		return a, nil
	}
	listener, err := listenAdmin(address)
	if err == nil && listener.Addr().Network() == "unix" {
		a.path = address
		a.socket, err = os.Lstat(address)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for administration: %w", err)
	}
	go a.Serve(listener)
	return a, nil
}

// awaitSuccessor returns at once unless this process has a socket. Then it gives
// another gateway the chance to take the socket over, and waits until that one
// is ready, so that at every moment somebody accepts connections. It reports whether
// one is.
func (a *admin) awaitSuccessor() bool {
	if a.path == "" {
		return false
	}
	successor := func() bool {
		now, err := os.Lstat(a.path)
		return err == nil && !os.SameFile(now, a.socket)
	}
	if !poll(appears, successor) {
		return false
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", a.path)
	}}}
	defer client.CloseIdleConnections()
	return poll(takesOver, func() bool {
		response, err := client.Get("http://gateway/readyz")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// poll asks until the answer is yes, or the time is over.
func poll(limit time.Duration, yes func() bool) bool {
	for deadline := time.Now().Add(limit); !yes(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
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
