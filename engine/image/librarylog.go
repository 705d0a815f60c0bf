package image

import (
	"io"
	"log/slog"

	"github.com/sirupsen/logrus"
)

// libraryLogger turns the warnings of containerd's libraries, which log with
// logrus, into records of l. Their informational chatter is dropped.
func libraryLogger(l *slog.Logger) *logrus.Entry {
	lg := logrus.New()
	lg.SetOutput(io.Discard)
	lg.SetLevel(logrus.WarnLevel)
	lg.AddHook(slogHook{l})
	return logrus.NewEntry(lg)
}

type slogHook struct{ to *slog.Logger }

func (slogHook) Levels() []logrus.Level {
	return []logrus.Level{logrus.ErrorLevel, logrus.WarnLevel}
}

func (h slogHook) Fire(e *logrus.Entry) error {
	attrs := make([]any, 0, 2*len(e.Data))
	for k, v := range e.Data {
		attrs = append(attrs, k, v)
	}
	// A library's error is a detail of an operation whose own error is
	// returned; it is worth a line only when somebody looks for it.
	h.to.Debug(e.Message, attrs...)
	return nil
}
