// Package demand is what gateways tell of the requests for Services: the format of
// GET /demand at their admin address, and its client.
//
// The answer is a stream of lines, each a [Report] as JSON: the first at once, with all
// Services that were asked for anything, the next ones within milliseconds of a change,
// with those that have changed. Without changes an empty one comes every [Heartbeat].
//
// Imported by the gateway, which writes it, and by the services that act on it.
package demand

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Heartbeat is how often a gateway sends a line when nothing changes.
const Heartbeat = time.Second

// patience is after how many heartbeats without a line a stream is given up.
const patience = 5

// Report is how the demand at one gateway has changed.
type Report struct {
	Services []Service `json:"services"`
}

// Service is the demand of one Service port.
type Service struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	Port      int32  `json:"port"`
	// Requests that came, in all, since the gateway has followed the Service.
	Requests uint64 `json:"requests"`
	// InFlight are at endpoints, Waiting wait for one.
	InFlight int `json:"inFlight"`
	Waiting  int `json:"waiting"`
	// Endpoints are those that are ready.
	Endpoints int `json:"endpoints"`
	// Gone is that the gateway does not follow the Service port any more.
	Gone bool `json:"gone,omitempty"`
}

// Name names a Service.
type Name struct{ Namespace, Service string }

// State is the demand of a Service at all gateways together.
type State struct {
	Requests          uint64 // ever increasing
	InFlight, Waiting int
	Endpoints         int
}

// Follower keeps the demand of all Services. Its methods are safe for concurrent use.
type Follower struct {
	source *url.URL
	log    *slog.Logger

	mu       sync.Mutex                            // guards following
	gateways map[string]map[Name]map[int32]Service // by address, Service and port
	requests map[Name]uint64
	changed  chan struct{} // closed at the next change
}

// NewFollower makes a follower of the gateways at source: unix:PATH for the one at a
// socket, http://HOST:PORT for those at all addresses of a host name.
func NewFollower(source string, log *slog.Logger) (*Follower, error) {
	u, err := url.Parse(source)
	if err != nil || u.Scheme != "unix" && u.Scheme != "http" || u.Scheme == "http" && u.Port() == "" {
		return nil, fmt.Errorf("follow the gateways at %q: use unix:PATH or http://HOST:PORT", source)
	}
	return &Follower{
		source: u, log: log, gateways: map[string]map[Name]map[int32]Service{}, requests: map[Name]uint64{}, changed: make(chan struct{}),
	}, nil
}

// Changed returns what is closed at the next change.
func (f *Follower) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Of returns the demand of a Service, and whether any gateway knows it.
func (f *Follower) Of(n Name) (s State, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, services := range f.gateways {
		for _, d := range services[n] {
			known = true
			s.InFlight += d.InFlight
			s.Waiting += d.Waiting
			s.Endpoints = max(s.Endpoints, d.Endpoints)
		}
	}
	s.Requests = f.requests[n]
	return s, known
}

// Names lists the Services that gateways know.
func (f *Follower) Names() []Name {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := map[Name]bool{}
	var names []Name
	for _, services := range f.gateways {
		for name := range services {
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	running := map[string]context.CancelFunc{}
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		wanted := f.addresses(ctx)
		for address := range wanted {
			if running[address] == nil {
				streamCtx, cancel := context.WithCancel(ctx)
				running[address] = cancel
				streams.Go(func() { f.follow(streamCtx, address) })
			}
		}
		for address, cancel := range running {
			if !wanted[address] {
				cancel()
				delete(running, address)
			}
		}
		select {
		case <-ctx.Done():
			for _, cancel := range running {
				cancel()
			}
			return
		case <-time.After(5 * time.Second):
		}
	}
}

// addresses are where gateways are at the moment.
func (f *Follower) addresses(ctx context.Context) map[string]bool {
	if f.source.Scheme == "unix" {
		return map[string]bool{f.source.Opaque + f.source.Path: true}
	}
	found := map[string]bool{}
	hosts, err := net.DefaultResolver.LookupHost(ctx, f.source.Hostname())
	if err != nil && ctx.Err() == nil {
		f.log.Warn("cannot find the gateways", "host", f.source.Hostname(), "err", err)
	}
	for _, h := range hosts {
		found[net.JoinHostPort(h, f.source.Port())] = true
	}
	return found
}

// follow reads one gateway's stream, again and again.
func (f *Follower) follow(ctx context.Context, address string) {
	network := "tcp"
	if f.source.Scheme == "unix" {
		network = "unix"
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	for wait := 10 * time.Millisecond; ; {
		began := time.Now()
		err := f.read(ctx, transport, address)
		f.take(address, nil)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 10*time.Second {
			wait = 10 * time.Millisecond
		}
		f.log.Debug("the gateway's demand is not known", "gateway", address, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}

// read reads one stream until it ends.
func (f *Follower) read(ctx context.Context, transport http.RoundTripper, address string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := time.AfterFunc(patience*Heartbeat, cancel)
	defer quiet.Stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gateway/demand", nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", response.Status)
	}
	lines := bufio.NewReader(response.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return errors.Join(err, ctx.Err())
		}
		quiet.Reset(patience * Heartbeat)
		var report Report
		if err := json.Unmarshal([]byte(strings.TrimSpace(line)), &report); err != nil {
			return fmt.Errorf("read the gateway's demand: %w", err)
		}
		f.take(address, &report)
	}
}

// take notes what a gateway says; nil is that it is gone.
func (f *Follower) take(address string, r *Report) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.gateways[address]
	if r == nil {
		if old == nil {
			return
		}
		delete(f.gateways, address)
	} else {
		if len(r.Services) == 0 && old != nil {
			return // a heartbeat
		}
		// What a gateway counted before it was followed is of another time.
		first := old == nil
		if first {
			old = map[Name]map[int32]Service{}
			f.gateways[address] = old
		}
		for _, s := range r.Services {
			f.note(old, s, first)
		}
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// note takes in what a gateway says of one Service port. The caller holds mu.
func (f *Follower) note(gateway map[Name]map[int32]Service, s Service, first bool) {
	name := Name{s.Namespace, s.Service}
	ports := gateway[name]
	if s.Gone {
		if delete(ports, s.Port); len(ports) == 0 {
			delete(gateway, name)
		}
		return
	}
	if ports == nil {
		ports = map[int32]Service{}
		gateway[name] = ports
	}
	if before := ports[s.Port]; !first && s.Requests >= before.Requests {
		f.requests[name] += s.Requests - before.Requests
	}
	ports[s.Port] = s
}
