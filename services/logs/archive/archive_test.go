package archive

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

func open(t testing.TB, dir string, maxBytes int64) *Archive {
	t.Helper()
	a, err := Open(Config{Dir: dir, Retention: time.Hour, MaxBytes: maxBytes, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var app = labels.FromStrings("namespace", "shop", "pod", "web-1", "container", "web")

func entries(begin time.Time, texts ...string) (list []Entry) {
	for i, text := range texts {
		list = append(list, Entry{begin.Add(time.Duration(i) * time.Millisecond).UnixNano(), i%3 == 2, []byte(text)})
	}
	return list
}

func put(t testing.TB, a *Archive, to Position, list []Entry) {
	t.Helper()
	if err := a.Append("shop_web-1_u/web", app, to, list, func() {}); err != nil {
		t.Fatal(err)
	}
}

// all are the texts in the archive.
func all(t testing.TB, a *Archive) (texts []string) {
	t.Helper()
	var s Scratch
	for _, c := range a.Select(0, 1<<62, func(labels.Labels) bool { return true }, func() {}) {
		err := c.Scan(&s, nil, nil, func(e Entry) bool {
			texts = append(texts, fmt.Sprintf("%d %t %s", e.Time%1e9/1e6, e.Stderr, e.Line))
			return true
		})
		if err != nil {
			t.Error(err)
		}
	}
	return texts
}

func TestWhatIsAppendedIsThereAgainAfterAnEnd(t *testing.T) {
	dir := t.TempDir()
	begin := time.Now().Truncate(time.Second)
	a := open(t, dir, 1<<30)
	put(t, a, Position{0, 5, 100}, entries(begin, "one", "", "thr\xffee"))
	put(t, a, Position{1, 9, 7}, entries(begin.Add(time.Millisecond*3), "four"))
	want := fmt.Sprint([]string{"0 false one", "1 false ", "2 true thr\xffee", "3 false four"})
	if got := fmt.Sprint(all(t, a)); got != want {
		t.Errorf("there are %s, want %s", got, want)
	}
	b := open(t, dir, 1<<30) // as after kill -9: nobody has closed a
	if got := fmt.Sprint(all(t, b)); got != want {
		t.Errorf("after an end there are %s, want %s", got, want)
	}
	if p, ok := b.Position("shop_web-1_u/web"); !ok || p != (Position{1, 9, 7}) {
		t.Errorf("the position is %v", p)
	}
}

func TestAnUnfinishedChunkIsCutOff(t *testing.T) {
	for _, damage := range []string{"shorter", "longer", "changed"} {
		dir := t.TempDir()
		a := open(t, dir, 1<<30)
		put(t, a, Position{0, 5, 1}, entries(time.Now(), "kept"))
		kept := a.Size()
		put(t, a, Position{0, 5, 2}, entries(time.Now(), "torn"))
		paths, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
		text, err := os.ReadFile(paths[0])
		if err != nil {
			t.Fatal(err)
		}
		switch damage {
		case "shorter":
			text = text[:len(text)-1]
		case "longer":
			text = append(text[:kept], bytes.Repeat([]byte{0}, 500)...)
		case "changed":
			text[len(text)-1]++
		}
		if err := os.WriteFile(paths[0], text, 0o600); err != nil {
			t.Fatal(err)
		}
		b := open(t, dir, 1<<30)
		if got := all(t, b); len(got) != 1 || !strings.HasSuffix(got[0], "kept") {
			t.Errorf("%s: there are %q", damage, got)
		}
		if p, _ := b.Position("shop_web-1_u/web"); p.Offset != 1 {
			t.Errorf("%s: reading would go on at %v", damage, p)
		}
		put(t, b, Position{0, 5, 2}, entries(time.Now(), "again"))
		if got := all(t, open(t, dir, 1<<30)); len(got) != 2 {
			t.Errorf("%s: after going on there are %q", damage, got)
		}
	}
}

func TestTrimRemovesWhatIsTooOldAndTooMuch(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir, 1<<30)
	put(t, a, Position{0, 5, 1}, entries(time.Now().Add(-2*time.Hour), "old"))
	if n, err := a.Trim(time.Now()); err != nil || n == 0 {
		t.Errorf("of what is too old %d bytes were removed: %v", n, err)
	}
	if got := all(t, a); len(got) != 0 {
		t.Errorf("there is %q", got)
	}
	if p, ok := open(t, dir, 1<<30).Position("shop_web-1_u/web"); !ok || p.Offset != 1 {
		t.Errorf("without the chunk the position is %v", p)
	}
	put(t, a, Position{0, 5, 2}, entries(time.Now(), "new"))
	if n, err := a.Trim(time.Now()); err != nil || n != 0 {
		t.Errorf("of what is new %d bytes were removed: %v", n, err)
	}
	a.cfg.MaxBytes = 10
	if n, err := a.Trim(time.Now()); err != nil || n == 0 || a.Size() != 0 {
		t.Errorf("of what is too much %d bytes were removed, %d are left: %v", n, a.Size(), err)
	}
}

// Whatever is in a text is found in its index.
func TestTheIndexMissesNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const alphabet = "abcABC0123 =-:\"{}"
	work := new([maxGramBits / 8]byte)
	excluded := 0
	for range 300 {
		var text []byte
		for range random.IntN(300) {
			for range random.IntN(60) {
				text = append(text, alphabet[random.IntN(len(alphabet))])
			}
			text = append(text, '\n')
		}
		index := bytes.Clone(gramIndex(text, work))
		for range 50 {
			if len(text) < 40 {
				break
			}
			at := random.IntN(len(text) - 30)
			needle := text[at : at+minIndexed+random.IntN(15)]
			if bytes.IndexByte(needle, '\n') >= 0 {
				continue
			}
			for _, same := range [][]byte{needle, bytes.ToUpper(needle), bytes.ToLower(needle)} {
				if !NewNeedle(same).mayBeIn(index) {
					t.Fatalf("%q is not found in the index of %q", same, text)
				}
			}
		}
		if !NewNeedle([]byte("xyzzy plugh is nowhere")).mayBeIn(index) {
			excluded++
		}
	}
	if excluded < 290 {
		t.Errorf("what is nowhere is excluded by %d of 300 indexes only", excluded)
	}
	if NewNeedle([]byte("too short")) != nil {
		t.Error("a short text is asked for in the index")
	}
}
