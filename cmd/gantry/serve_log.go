package main

import (
	"context"
	"log/slog"
	"strings"
)

// upstreamLog passes on what libraries of Kubernetes say only when an operator
// can use it: they narrate at the info level, and report as errors what they
// then try again as a matter of course.
type upstreamLog struct {
	slog.Handler
	verbose bool
}

// upstreamLogger is the logger for libraries of Kubernetes.
func (o *serveOptions) upstreamLogger() *slog.Logger {
	return slog.New(upstreamLog{slog.Default().Handler(), o.verbose})
}

// retried are parts of messages about things that right themselves.
var retried = []string{
	"the object has been modified",     // two controllers wrote at once: the later one reads and writes again
	"unexpected items still remain",    // a namespace that waits for its pods to stop
	"because it is being terminated",   // a controller that had not yet seen the deletion of a namespace
	"use of closed network connection", // a client that hung up
	"stream closed",                    // the same over HTTP/2
	"connection reset by peer",         // the same, less politely
	"http: TLS handshake error",        // a port scan, or a client without our CA
	"websocket: close 1006",            // a client that hung up in the middle of a stream
	"Timeout or abort while handling",  // a client that left before it was answered, as browsers do with each page
	"Post-timeout activity",            // the same, when the answer is ready
	"http: Handler timeout",            // the same, when it could not be sent
	"already exists",                   // two controllers created at once: the later one reads instead
	"pods.metrics.k8s.io",              // an autoscaler without metrics: its status says so
	"context canceled",                 // this process is stopping
}

func (h upstreamLog) Enabled(ctx context.Context, l slog.Level) bool {
	return (h.verbose || l >= slog.LevelWarn) && h.Handler.Enabled(ctx, l)
}

func (h upstreamLog) Handle(ctx context.Context, r slog.Record) error {
	if !h.verbose && rightsItself(r) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func rightsItself(r slog.Record) bool {
	known := mentionsRetried(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		known = known || mentionsRetried(a.Value.String())
		return !known
	})
	return known
}

func mentionsRetried(text string) bool {
	for _, part := range retried {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

func (h upstreamLog) WithAttrs(a []slog.Attr) slog.Handler {
	return upstreamLog{h.Handler.WithAttrs(a), h.verbose}
}

func (h upstreamLog) WithGroup(name string) slog.Handler {
	return upstreamLog{h.Handler.WithGroup(name), h.verbose}
}
