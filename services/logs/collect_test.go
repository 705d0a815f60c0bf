package logs

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	corev1 "k8s.io/api/core/v1"

	"github.com/gantryhq/gantry/services/logs/archive"
	"github.com/gantryhq/gantry/services/logs/crilog"
	"github.com/gantryhq/gantry/services/logs/logql"
	"github.com/gantryhq/gantry/services/logs/search"
)

// place is where a test has logs.
type place struct {
	t    testing.TB
	dir  string
	pods string
	at   time.Time // of the next line
	*Service
	collect *collector
}

func newPlace(t testing.TB) *place {
	p := &place{t: t, dir: t.TempDir(), at: time.Now().Add(-time.Minute).UTC()}
	p.pods = filepath.Join(p.dir, "pods")
	p.restart()
	return p
}

// restart begins anew with what is on the disk, as after kill -9.
func (p *place) restart() {
	a, err := archive.Open(archive.Config{Dir: filepath.Join(p.dir, "archive"), Retention: time.Hour, MaxBytes: 1 << 30, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		p.t.Fatal(err)
	}
	p.Service = &Service{archive: a, metrics: newMetrics()}
	pod := &corev1.Pod{}
	pod.Labels = map[string]string{"app": "web", "app.kubernetes.io/part-of": "shop"}
	pod.Spec.NodeName = "here"
	p.collect = newCollector(p.pods, false, a, p.metrics, &p.hub, func(at crilog.Pod, container string) (labels.Labels, bool) {
		return labelsOf(at, container, pod), true
	}, slog.New(slog.DiscardHandler))
	p.collectors = []*collector{p.collect}
}

// write appends lines to a file below the pods' directory.
func (p *place) write(file string, lines ...string) {
	p.t.Helper()
	path := filepath.Join(p.pods, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	var b strings.Builder
	for _, l := range lines {
		p.at = p.at.Add(time.Microsecond)
		fmt.Fprintf(&b, "%s stdout F %s\n", p.at.Format("2006-01-02T15:04:05.000000000Z"), l)
	}
	if _, err := f.WriteString(b.String()); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) poll() { p.collect.poll(time.Now()) }

// ask returns the texts of the lines that a question selects, the oldest first.
func (p *place) ask(query string) (texts []string) {
	p.t.Helper()
	q, err := logql.Parse(query)
	if err != nil {
		p.t.Fatal(err)
	}
	found, err := search.Lines(p.t.Context(), p, q.Log, search.Options{
		From: 0, To: time.Now().Add(time.Hour).UnixNano(), Limit: 1 << 20, Forward: true, May: func(string) bool { return true },
	})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, l := range found {
		texts = append(texts, l.Text)
	}
	return texts
}

func (p *place) expect(what, query string, want ...string) {
	p.t.Helper()
	if got := p.ask(query); strings.Join(got, "|") != strings.Join(want, "|") {
		p.t.Errorf("%s: found %q, want %q", what, got, want)
	}
}

const web = "shop_web-1_uid-1/web/"

func TestLinesOfAPodThatIsGone(t *testing.T) {
	p := newPlace(t)
	p.write(web+"0.log", "one", "two")
	p.poll()
	p.expect("in the file", `{app="web"}`, "one", "two")
	p.write(web+"0.log", "three")
	p.collect.drain(filepath.Join(p.pods, "shop_web-1_uid-1"))
	if err := os.RemoveAll(filepath.Join(p.pods, "shop_web-1_uid-1")); err != nil {
		t.Fatal(err)
	}
	p.expect("removed", `{namespace="shop",pod="web-1",container="web",node="here",app_kubernetes_io_part_of="shop"}`, "one", "two", "three")
	p.poll()
	p.expect("and noticed", `{app="web"}`, "one", "two", "three")
	p.restart()
	p.poll()
	p.expect("and restarted", `{app="web"}`, "one", "two", "three")
	if len(p.collect.sources) != 0 {
		t.Error("a pod that is gone is still read")
	}
}

func TestLogsThatNobodyHasSeenAreDrained(t *testing.T) {
	p := newPlace(t)
	p.collect.labelsOf = func(at crilog.Pod, container string) (labels.Labels, bool) {
		return labelsOf(at, container, nil), false
	}
	p.write("jobs_short_uid-2/main/0.log", "done")
	p.collect.drain(filepath.Join(p.pods, "jobs_short_uid-2"))
	os.RemoveAll(filepath.Join(p.pods, "jobs_short_uid-2"))
	p.expect("a pod between two looks", `{namespace="jobs"}`, "done")
}

// However files are put aside and processes end, each line is found once, in order.
func TestNoLineIsLostOrDoubled(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	p := newPlace(t)
	var want []string
	run, rotated := 0, 0
	padding := strings.Repeat("x", 300)
	for range 300 {
		file := fmt.Sprintf("%s%d.log", web, run)
		switch random.IntN(8) {
		case 0:
			p.restart()
		case 1: // the file is full
			old := filepath.Join(p.pods, file)
			if os.Rename(old, fmt.Sprintf("%s.20260101-%06d.000000", old, rotated)) == nil {
				rotated++
			}
		case 2:
			run++
		case 3, 4:
			p.poll()
		default:
			var lines []string
			for range random.IntN(400) {
				lines = append(lines, fmt.Sprintf("line %d %s", len(want)+len(lines), padding))
			}
			p.write(file, lines...)
			want = append(want, lines...)
		}
	}
	p.poll()
	got := p.ask(`{namespace="shop"}`)
	if len(got) != len(want) {
		t.Errorf("%d lines were written, %d are found", len(want), len(got))
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("line %d is %.20q, want %.20q", i, got[i], want[i])
		}
	}
	if chunks := p.archive.Select(0, 1<<62, func(labels.Labels) bool { return true }, func() {}); len(chunks) < 10 {
		t.Errorf("there are %d chunks: the test tests little", len(chunks))
	}
}

func TestAFloodIsBoundedAndCounted(t *testing.T) {
	p := newPlace(t)
	p.write(web+"0.log", "before")
	p.poll()
	s := p.collect.sources[strings.TrimSuffix(web, "/")]
	s.allowance = 0
	text := strings.Repeat("y", 1000)
	for i := range 6 {
		lines := make([]string, 400)
		for j := range lines {
			lines[j] = text
		}
		p.write(web+"0.log", lines...)
		old := filepath.Join(p.pods, web+"0.log")
		if err := os.Rename(old, fmt.Sprintf("%s.20260101-%06d.000000", old, i)); err != nil {
			t.Fatal(err)
		}
	}
	p.write(web+"0.log", "after")
	p.collect.poll(s.refilled)
	got := p.ask(`{namespace="shop"} |= "gantry:"`)
	if len(got) == 0 || !strings.Contains(got[0], "bytes of this log were not kept") {
		t.Errorf("the log says %q of what is left out", got)
	}
	if n := p.archive.Size(); n > 1<<20 {
		t.Errorf("%d bytes were archived", n)
	}
}

func TestLongAndBrokenLines(t *testing.T) {
	p := newPlace(t)
	path := filepath.Join(p.pods, web, "0.log")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	piece := strings.Repeat("z", 16<<10)
	at := p.at.Format(time.RFC3339Nano)
	var b strings.Builder
	for range 40 {
		fmt.Fprintf(&b, "%s stdout P %s\n", at, piece)
	}
	fmt.Fprintf(&b, "%s stderr F between\n%s stdout F end\n", at, at)
	fmt.Fprintf(&b, "%s stdout P a \n%s stdout F line\nno entry at all\n%s stdout F \x1b[31m\xff\x00", at, at, at)
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	p.poll()
	for _, when := range []string{"in the file", "archived"} {
		got := p.ask(`{namespace="shop"} != "between"`)
		for _, l := range got {
			if len(l) > 65<<10 {
				t.Errorf("%s: a line has %d bytes", when, len(l))
			}
		}
		text := strings.Join(got, "|")
		for _, part := range []string{"more bytes of this line were cut]", "|a line|no entry at all"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s: there is no %q", when, part)
			}
		}
		p.collect.drain(filepath.Join(p.pods, "shop_web-1_uid-1"))
	}
	if got := p.ask(`{namespace="shop"} |= "\x1b[31m"`); len(got) != 1 || got[0] != "\x1b[31m\xff\x00" {
		t.Errorf("the last line, without an end, is %q", got)
	}
}

func TestFollowing(t *testing.T) {
	p := newPlace(t)
	p.poll()
	sub := p.hub.Follow(func(l labels.Labels) bool { return l.Get("pod") == "web-1" })
	defer sub.Close()
	p.write(web+"0.log", "one")
	p.write("shop_other_uid-9/web/0.log", "other")
	p.poll()
	p.write(web+"0.log", "two")
	p.poll()
	for _, want := range []string{"one", "two"} {
		select {
		case n := <-sub.C:
			if string(n.Entry.Line) != want {
				t.Errorf("followed %q, want %q", n.Entry.Line, want)
			}
		default:
			t.Fatalf("%q is not told", want)
		}
	}
}
