package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// disk is a writer that can be full.
type disk struct {
	bytes.Buffer
	full bool
}

func (d *disk) Write(p []byte) (int, error) {
	if d.full {
		return 0, errors.New("no space left on device")
	}
	return d.Buffer.Write(p)
}

func TestAnEntryIsOneLine(t *testing.T) {
	d := &disk{}
	l := New(d)
	l.Record(&Entry{Time: time.Unix(1, 0).UTC(), Client: "192.0.2.1", Who: &Who{"acme", "apiKey"}, Method: "GET", Path: "/a\nb", Status: 200})
	l.Flush()
	var e Entry
	if n := strings.Count(d.String(), "\n"); n != 1 {
		t.Fatalf("%d lines: %q", n, d.String())
	}
	if err := json.Unmarshal(d.Bytes(), &e); err != nil || e.Who.Name != "acme" || e.Path != "/a\nb" {
		t.Errorf("got %+v, %v", e, err)
	}
	New(nil).Record(&Entry{})
}

func TestWhatIsDroppedIsSaid(t *testing.T) {
	d := &disk{full: true}
	l := New(d)
	l.Record(&Entry{Path: "/lost"})
	l.Flush()
	big := strings.Repeat("x", maxWaiting)
	l.Record(&Entry{Path: big})
	if l.Dropped() != 2 {
		t.Errorf("%d dropped, want 2", l.Dropped())
	}
	d.full = false
	l.Record(&Entry{Path: "/kept"})
	l.Flush()
	lines := strings.Split(strings.TrimSpace(d.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `"dropped":2`) || !strings.Contains(lines[1], "/kept") {
		t.Errorf("the log says %q", lines)
	}
}
