package upstream

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

const (
	checkInterval  = 5 * time.Second
	checkTimeout   = 2 * time.Second
	checkUnhealthy = 3
	checkHealthy   = 1
)

// check starts, changes or ends an endpoint's health checks. It needs the pool's lock.
func (e *Endpoint) check(p *Pool, policy *route.UpstreamPolicy) {
	if reflect.DeepEqual(e.checked, policy.Health) {
		return
	}
	e.end()
	e.end, e.checked, e.results = func() {}, policy.Health, 0
	if policy.Health == nil {
		e.unhealthy = false
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.end = cancel
	go p.watch(ctx, e, *policy.Health)
}

// watch asks an endpoint for its health until ctx ends.
func (p *Pool) watch(ctx context.Context, e *Endpoint, h route.HealthCheck) {
	interval := cmp.Or(h.Interval, checkInterval)
	wait := time.NewTimer(rand.N(interval/10 + 1)) // not all at once
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		err := probe(ctx, e, &h)
		if ctx.Err() != nil {
			return
		}
		p.verdict(e, &h, err)
		wait.Reset(interval)
	}
}

// verdict takes in the result of a health check.
func (p *Pool) verdict(e *Endpoint, h *route.HealthCheck, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	result := &p.counts.checksPassed
	if err != nil {
		result = &p.counts.checksFailed
	}
	result.Add(1)
	if e.removed.Load() || e.checked == nil {
		return
	}
	if (err != nil) == e.unhealthy {
		e.results = 0
		return
	}
	e.results++
	needed := cmp.Or(h.Unhealthy, checkUnhealthy)
	if e.unhealthy {
		needed = cmp.Or(h.Healthy, checkHealthy)
	}
	if e.results < needed {
		return
	}
	e.results, e.unhealthy = 0, err != nil
	if err != nil {
		p.config.Log.Warn("endpoint is unhealthy", "service", p.service, "endpoint", e.Host, "error", err)
	} else {
		p.config.Log.Info("endpoint is healthy again", "service", p.service, "endpoint", e.Host)
	}
	p.refresh()
	p.wake()
}

// probe asks once.
func probe(ctx context.Context, e *Endpoint, h *route.HealthCheck) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(h.Timeout, checkTimeout))
	defer cancel()
	address := netip.AddrPortFrom(e.Address.Addr(), cmp.Or(h.Port, e.Address.Port())).String()
	switch h.Kind {
	case route.CheckTCP:
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			conn.Close()
		}
		return err
	case route.CheckGRPC:
		return probeGRPC(ctx, e, h, address)
	}
	return probeHTTP(ctx, e, h, address)
}

func probeHTTP(ctx context.Context, e *Endpoint, h *route.HealthCheck, address string) error {
	target := url.URL{Scheme: "http", Host: address, Path: cmp.Or(h.Path, "/")}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	r.Host = h.Host
	r.Header.Set("User-Agent", "gantry-gateway-health")
	response, err := e.Transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, 64<<10) // so that the connection can be used again
	good := response.StatusCode >= 200 && response.StatusCode < 400
	if len(h.Statuses) > 0 {
		good = slices.Contains(h.Statuses, response.StatusCode)
	}
	if !good {
		return fmt.Errorf("health check answered %d", response.StatusCode)
	}
	return nil
}

// probeGRPC calls grpc.health.v1.Health/Check. Its messages are one field each, so that
// no client of gRPC is needed.
func probeGRPC(ctx context.Context, e *Endpoint, h *route.HealthCheck, address string) error {
	const serving = 1
	message := []byte(nil)
	if h.Service != "" {
		message = append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(h.Service))), h.Service...)
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	frame = append(frame, message...)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/grpc.health.v1.Health/Check", bytes.NewReader(frame))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Te", "trailers")
	response, err := e.Transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if err != nil {
		return err
	}
	status := cmp.Or(response.Trailer.Get("Grpc-Status"), response.Header.Get("Grpc-Status"))
	if response.StatusCode != http.StatusOK || status != "0" {
		return fmt.Errorf("health check answered %d, gRPC status %s", response.StatusCode, strconv.Quote(status))
	}
	if v := servingStatus(body); v != serving {
		return fmt.Errorf("health check answered serving status %d", v)
	}
	return nil
}

// servingStatus reads a HealthCheckResponse, whose only field is a number; 0 is unknown,
// also for what cannot be read.
func servingStatus(body []byte) uint64 {
	if len(body) < 5+2 || body[5] != 1<<3 {
		return 0
	}
	v, _ := binary.Uvarint(body[6:])
	return v
}
