package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestLogLinesAreJSONWhateverIsInThem(t *testing.T) {
	start := time.Date(2026, 11, 30, 12, 0, 7, 1_234_000, time.FixedZone("", 3600))
	var clock clockText
	for c := range 256 {
		for _, before := range []string{"", "1234567", "12345678", "0123456789abcdef"} {
			text := before + string([]byte{byte(c)}) + "tail of it"
			line := logLine{start: start, client: text, agent: text, took: 3*time.Second + 45*time.Microsecond, status: 200, bytes: 7}
			var got struct {
				Time          time.Time
				Client, Agent string
				Seconds       float64
			}
			if err := json.Unmarshal(line.append(nil, &clock), &got); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			if want := strings.ToValidUTF8(text, "\ufffd"); got.Client != want || got.Agent != want {
				t.Errorf("%q became %q and %q", text, got.Client, got.Agent)
			}
			if !got.Time.Equal(start) || got.Seconds != 3.000045 {
				t.Errorf("time is %v, seconds %v", got.Time, got.Seconds)
			}
		}
	}
}

func TestEveryLineIsWrittenOnceAndWhole(t *testing.T) {
	const lanes, each = 4, 5000
	var to bytes.Buffer // a log writes one batch at a time
	l := newAccessLog(&to, lanes)
	var writing sync.WaitGroup
	for lane := range lanes {
		writing.Go(func() {
			peer := netip.MustParseAddrPort("192.0.2.1:1234")
			for i := range each {
				l.write(lane, &logLine{start: time.Now(), peer: peer, path: fmt.Sprintf("/%d/%d", lane, i)})
			}
		})
	}
	writing.Wait()
	l.Flush()
	seen := map[string]bool{}
	for line := range strings.Lines(to.String()) {
		var got struct{ Path, Client string }
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if seen[got.Path] || got.Client != "192.0.2.1:1234" {
			t.Fatalf("line %q comes again or from elsewhere", line)
		}
		seen[got.Path] = true
	}
	if len(seen) != lanes*each {
		t.Errorf("%d lines are in the log, want %d", len(seen), lanes*each)
	}
}

// Also beside lanes in which nothing happens: memory that is not used again costs more than
// the lines themselves.
func TestTheLogUsesItsMemoryAgain(t *testing.T) {
	l := newAccessLog(io.Discard, 3)
	round := func() {
		for range 4000 {
			l.write(1, &logLine{start: time.Unix(1, 0), path: "/some/path", client: "192.0.2.1:1234"})
		}
		l.Flush()
	}
	round()
	round()
	round()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20 {
		round()
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 256<<10 { // the lines are about 12 MB
		t.Errorf("%d bytes were allocated for lines that had room", n)
	}
}
