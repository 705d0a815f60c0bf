package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/hint"
)

// followRetry is how long it is waited before connecting anew.
const followRetry = time.Second

// follow prints the lines since start, of them at most tail, and then new ones until ctx ends. When the
// connection breaks, as when `gantry serve` restarts, it goes on where it was.
func (r *logReader) follow(ctx context.Context, p *logPrinter, notes io.Writer, query string, start time.Time, tail int) error {
	if tail == 0 || tail > pageLines {
		// More than one message may have: they are read first, and what comes meanwhile after them.
		now := time.Now()
		if _, err := r.lines(ctx, query, start, now, 0, p.print); err != nil {
			return err
		}
		start, tail = now, pageLines
	}
	from := start.UnixNano()
	for connected := false; ; {
		last, err := r.followOnce(ctx, p, query, from, tail, &connected)
		if ctx.Err() != nil {
			return nil
		}
		if !connected {
			return err
		}
		if last >= from {
			from, tail = last+1, pageLines
		}
		fmt.Fprintf(notes, "the connection is broken (%v); trying again\n", err)
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(followRetry):
			}
			if r.get(ctx, "labels", nil, &struct{}{}) == nil {
				break
			}
		}
	}
}

// followOnce follows over one connection, and returns the time of the last line it has printed.
func (r *logReader) followOnce(ctx context.Context, p *logPrinter, query string, from int64, limit int, connected *bool) (last int64, err error) {
	conn, err := r.dial(ctx, url.Values{"query": {query}, "start": {strconv.FormatInt(from, 10)}, "limit": {strconv.Itoa(limit)}})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	*connected = true
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for {
		var m struct {
			Streams []logStream `json:"streams"`
			Dropped []struct {
				Labels map[string]string `json:"labels"`
			} `json:"dropped_entries"`
		}
		if err := conn.ReadJSON(&m); err != nil {
			return last, err
		}
		for _, l := range sortedLines(m.Streams, false) {
			if err := p.print(l); err != nil {
				return last, err
			}
			last = max(last, l.at)
		}
		for _, d := range m.Dropped {
			fmt.Fprintf(p.out, "gantry: %s lines came faster than they could be shown\n", d.Labels["dropped"])
		}
	}
}

// dial opens the WebSocket with the identity of the configuration.
func (r *logReader) dial(ctx context.Context, params url.Values) (*websocket.Conn, error) {
	tls, err := rest.TLSConfigFor(r.cfg)
	if err != nil {
		return nil, fmt.Errorf("follow logs: %w", err)
	}
	headers := &headersOf{}
	wrapped, err := rest.HTTPWrappersForConfig(r.cfg, headers)
	if err != nil {
		return nil, fmt.Errorf("follow logs: %w", err)
	}
	at := r.client.Get().AbsPath("/loki/api/v1/tail").URL()
	at.Scheme = strings.Replace(at.Scheme, "http", "ws", 1)
	at.RawQuery = params.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("follow logs: %w", err)
	}
	_, _ = wrapped.RoundTrip(request) // only its headers are wanted
	d := websocket.Dialer{TLSClientConfig: tls, HandshakeTimeout: 30 * time.Second}
	conn, answer, err := d.DialContext(ctx, at.String(), headers.header)
	if err == nil {
		return conn, nil
	}
	if answer == nil {
		return nil, fmt.Errorf("follow logs: %w", err)
	}
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if answer.StatusCode == http.StatusNotFound {
		return nil, hint.Wrap(errors.New("follow logs: nothing answers at /loki/"), "start `gantry serve` without --no-logs; other clusters do not have this yet")
	}
	return nil, fmt.Errorf("follow logs: %s", strings.TrimSpace(string(text)))
}

// headersOf keeps the headers of a request instead of sending it.
type headersOf struct{ header http.Header }

func (h *headersOf) RoundTrip(r *http.Request) (*http.Response, error) {
	h.header = r.Header
	return nil, errors.ErrUnsupported
}
