package progress

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestPlainWritesChangesThatLastAndAlwaysTheEnd(t *testing.T) {
	var out bytes.Buffer
	d := Plain(&out)
	now := time.Now()
	d.now = func() time.Time { return now }
	task := d.Task("image web")
	task.Update("step 1/2")
	task.Update("step 1/2")
	task.Update("a step so short that nobody needs to read of it")
	task.Count(1, 2)
	now = now.Add(plainInterval)
	task.Update("step 2/2")
	d.Printf("note: %s", "hello")
	task.Fail("exit status 1\nsecond line")
	task.Update("too late")
	d.Close()
	want := "image web: step 1/2\nimage web: step 2/2\nnote: hello\nimage web: failed: exit status 1\n"
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestATerminalIsRedrawnInPlaceAndKeepsItsLastState(t *testing.T) {
	var out bytes.Buffer
	d := &Display{out: &out, now: time.Now, size: func() (int, int) { return 80, 24 }}
	web, db := d.Task("web"), d.Task("db")
	web.Count(1, 2)
	web.Update("starting")
	d.Printf("above")
	db.Done("ready")
	web.Done("ready")
	d.Close()
	text := out.String()
	if got := strings.Count(text, "\x1b[1A"); got != 2 {
		t.Errorf("moved up %d lines, want 2 (both tasks once)", got)
	}
	if strings.Count(text, "✔") != 2 {
		t.Errorf("both tasks must end with a tick:\n%s", text)
	}
}

func TestALineNeverWraps(t *testing.T) {
	task := &Task{display: &Display{now: time.Now}, name: strings.Repeat("n", 60), status: strings.Repeat("s", 200), start: time.Now()}
	line := task.line(0, 80)
	for _, code := range []string{reset, green, red, cyan, faint} {
		line = strings.ReplaceAll(line, code, "")
	}
	if n := utf8.RuneCountInString(line); n > 80 {
		t.Errorf("line of %d columns on a terminal of 80", n)
	}
}

func TestASmallScreenShowsWhatIsStillRunning(t *testing.T) {
	d := &Display{out: &bytes.Buffer{}, now: time.Now, size: func() (int, int) { return 80, 5 }}
	for range 4 {
		d.Task("ended").Done("ready")
	}
	d.Task("running").Update("starting")
	visible := d.visible()
	if len(visible) != 3 || visible[2].name != "running" {
		t.Errorf("%d lines on a screen of 5", len(visible))
	}
}
