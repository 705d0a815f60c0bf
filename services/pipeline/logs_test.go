package pipeline

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
)

func TestALogIsFollowedToItsEnd(t *testing.T) {
	l := newLogs(t.TempDir())
	b, err := l.create("ns", "shop-1")
	if err != nil {
		t.Fatal(err)
	}
	b.printf("one")
	var got bytes.Buffer
	var done sync.WaitGroup
	done.Go(func() {
		if err := l.copy(t.Context(), &got, "ns", "shop-1", 0, true); err != nil {
			t.Error(err)
		}
	})
	b.printf("two")
	b.last("three\n")
	l.end("ns", "shop-1")
	done.Wait()
	if got.String() != "one\ntwo\nthree\n" {
		t.Errorf("followed: %q", got.String())
	}
	got.Reset()
	if err := l.copy(t.Context(), &got, "ns", "shop-1", 4, true); err != nil || got.String() != "two\nthree\n" {
		t.Errorf("afterwards from byte 4: %q, %v", got.String(), err)
	}
	l.remove("ns", "shop-1")
	if err := l.copy(t.Context(), &got, "ns", "shop-1", 0, false); !errors.Is(err, errNoLog) {
		t.Errorf("of a removed log: %v", err)
	}
}

func TestALogIsBoundedAndKeepsItsLastWords(t *testing.T) {
	l := newLogs(t.TempDir())
	b, err := l.create("ns", "shop-1")
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 1023)
	for range 2 * maxLog / 1024 {
		b.printf("%s", line)
	}
	b.last("error: the end\n")
	l.end("ns", "shop-1")
	text, err := os.ReadFile(l.path("ns", "shop-1"))
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > maxLog || len(text) < maxLog/2 || !strings.HasSuffix(string(text), "error: the end\n") {
		t.Errorf("%d bytes, ending in %q", len(text), text[len(text)-50:])
	}
}
