// Package librarylog brings the log lines of embedded libraries into Gantry's
// own log.
//
// containerd, BuildKit and distribution write with logrus, partly through a
// process-wide logger, and call much an error or a warning that is the normal
// answer to a request (a manifest that does not exist, a file system without
// fs-verity). The error of an operation reaches its caller anyway, so all of it
// is worth a debug line here and nothing more.
package librarylog

import (
	"io"
	"log/slog"

	"github.com/sirupsen/logrus"
)

// Entry is a logger to put into the contexts given to a library.
func Entry(to *slog.Logger) *logrus.Entry {
	l := logrus.New()
	redirect(l, to)
	return logrus.NewEntry(l)
}

// Redirect sends what libraries write to logrus's process-wide logger to l.
// The last call wins.
func Redirect(to *slog.Logger) { redirect(logrus.StandardLogger(), to) }

func redirect(l *logrus.Logger, to *slog.Logger) {
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.WarnLevel)
	l.ReplaceHooks(logrus.LevelHooks{logrus.ErrorLevel: {hook{to}}, logrus.WarnLevel: {hook{to}}})
}

type hook struct{ to *slog.Logger }

func (hook) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel, logrus.WarnLevel} }

func (h hook) Fire(e *logrus.Entry) error {
	attrs := make([]any, 0, 2*len(e.Data))
	for k, v := range e.Data {
		attrs = append(attrs, k, v)
	}
	h.to.Debug(e.Message, attrs...)
	return nil
}
