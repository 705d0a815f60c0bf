package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

func writeLog(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	var b strings.Builder
	for i, l := range lines {
		at := time.Date(2026, 1, 1, 12, 0, i, 0, time.UTC).Format(time.RFC3339Nano)
		fmt.Fprintf(&b, "%s %s F %s\n", at, []string{"stdout", "stderr"}[i%2], l)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func notRunning() bool { return false }

func TestReadHonoursItsOptions(t *testing.T) {
	path := writeLog(t, "one", "two", "three", "four")
	two, seven := int64(2), int64(7)
	for name, tt := range map[string]struct {
		opt  v1.PodLogOptions
		want string
	}{
		"all":        {v1.PodLogOptions{}, "one\ntwo\nthree\nfour\n"},
		"tail":       {v1.PodLogOptions{TailLines: &two}, "three\nfour\n"},
		"limit":      {v1.PodLogOptions{LimitBytes: &seven}, "one\ntwo"},
		"timestamps": {v1.PodLogOptions{TailLines: &two, Timestamps: true}, "2026-01-01T12:00:02.000000000Z three\n2026-01-01T12:00:03.000000000Z four\n"},
	} {
		var out bytes.Buffer
		if err := Read(t.Context(), path, &tt.opt, notRunning, &out, &out); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := out.String(); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestFollowEndsWithTheContainer(t *testing.T) {
	path := writeLog(t, "one")
	var running atomic.Bool
	running.Store(true)
	done := make(chan string)
	go func() {
		var out bytes.Buffer
		if err := Read(context.Background(), path, &v1.PodLogOptions{Follow: true}, running.Load, &out, &out); err != nil {
			t.Error(err)
		}
		done <- out.String()
	}()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(f, "2026-01-01T12:01:00Z stdout F two")
	f.Close()
	running.Store(false)
	select {
	case got := <-done:
		if got != "one\ntwo\n" {
			t.Errorf("followed %q", got)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("following did not end with the container")
	}
}
