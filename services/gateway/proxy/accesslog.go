package proxy

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// accessLog writes one JSON line for each request. The query is left out:
// people put secrets there.
type accessLog struct{ handler slog.Handler }

// newAccessLog returns nil, which logs nothing, without a writer.
func newAccessLog(w io.Writer) *accessLog {
	if w == nil {
		return nil
	}
	return &accessLog{handler: slog.NewJSONHandler(w, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
				return slog.Attr{}
			}
			return a
		},
	})}
}

func (l *accessLog) write(start time.Time, r *http.Request, x *exchange, rec *recorder, took time.Duration) {
	if l == nil {
		return
	}
	line := slog.NewRecord(start, slog.LevelInfo, "", 0)
	line.AddAttrs(
		slog.String("client", r.RemoteAddr),
		slog.String("method", r.Method),
		slog.String("host", x.host),
		slog.String("path", r.URL.Path),
		slog.String("protocol", r.Proto),
		slog.Int("status", rec.status),
		slog.Int64("bytes", rec.bytes),
		slog.Float64("seconds", took.Seconds()),
		slog.String("route", x.route()),
		slog.String("endpoint", x.endpoint),
		slog.String("agent", r.UserAgent()),
	)
	// A log that cannot be written must not fail the request it is about.
	_ = l.handler.Handle(context.Background(), line)
}
