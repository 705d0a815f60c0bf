package librarylog

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

func TestLibrariesEndInOurLogAsDetails(t *testing.T) {
	var buf bytes.Buffer
	to := slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug}))
	Redirect(to)
	logrus.WithField("ref", "a/b:1").WithError(errors.New("gone")).Error("response completed with error")
	logrus.Info("chatter")
	Entry(to).Warn("from a context")
	got := buf.String()
	for _, want := range []string{"level=DEBUG", "ref=a/b:1", "error=gone", "from a context"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in %s", want, got)
		}
	}
	if strings.Contains(got, "chatter") {
		t.Errorf("information got through: %s", got)
	}
}
