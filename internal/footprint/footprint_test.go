package footprint

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestTrimGivesBackPagesOfTheExecutable(t *testing.T) {
	touch(t)
	before := fileRSS(t)
	if err := Trim(); err != nil {
		t.Fatal(err)
	}
	after := fileRSS(t)
	if after >= before {
		t.Errorf("%d kB of files were resident before, %d kB after", before, after)
	}
	touch(t) // and everything still works
}

func TestOnlyReadOnlyPrivateMappingsOfTheFileAreGivenBack(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-00600000 r-xp 00000000 fe:00 42 /bin/gantry":          true,
		"00600000-00700000 r--p 00200000 fe:00 42 /bin/gantry":          true,
		"00700000-00800000 rw-p 00300000 fe:00 42 /bin/gantry":          false,
		"00700000-00800000 r--s 00300000 fe:00 42 /bin/gantry":          false,
		"00400000-00600000 r-xp 00000000 fe:00 43 /usr/lib/other":       false,
		"c000000000-c000400000 rw-p 00000000 00:00 0":                   false,
		"7ffd0000-7ffe0000 r-xp 00000000 00:00 0                [vdso]": false,
	} {
		start, length, ok := cleanMapping(line, "/bin/gantry")
		if ok != want {
			t.Errorf("%q: %v", line, ok)
		}
		if ok && (start == 0 || length == 0) {
			t.Errorf("%q: start %x length %x", line, start, length)
		}
	}
}

// TestMemoryIsGivenBackAfterWork plays a burst and what follows it, breath by breath.
func TestMemoryIsGivenBackAfterWork(t *testing.T) {
	const mb = 1 << 20
	const burst, idle = 900 * time.Millisecond, 40 * time.Millisecond
	w := &watcher{allowance: Bursts, heap: 40 * mb, since: pause}
	for i, c := range []struct {
		busy     time.Duration // processor time within each breath
		breaths  int
		heap     uint64
		giveBack bool // at the last of them
	}{
		{burst, 1, 120 * mb, false},
		{idle, rest - 1, 121 * mb, false},
		{burst, 1, 140 * mb, false},
		{idle, rest - 1, 140 * mb, false},
		{idle, 1, 140 * mb, true},
		{burst, 1, 130 * mb, false},
		{idle, pause - 2, 130 * mb, false}, // not again so soon
		{idle, 1, 130 * mb, true},
		{idle, 2 * pause, 60 * mb, false}, // the idle process allocates a little
		{idle, 1, 62 * mb, true},
		{idle, 2 * pause, 30 * mb, false}, // the collector has run by itself
		{idle, 1, 47 * mb, true},
	} {
		for breath := range c.breaths {
			giveBack, _ := w.breathe(w.used+c.busy, time.Second, c.heap)
			if want := c.giveBack && breath == c.breaths-1; giveBack != want {
				t.Errorf("step %d, breath %d: gives back: %v, want %v", i, breath, giveBack, want)
			}
			if giveBack {
				w.gaveBack(w.used, 45*mb)
			}
		}
	}
}

func TestTheHeapMayGrowByTheAllowance(t *testing.T) {
	const mb, gb = 1 << 20, 1 << 30
	for _, c := range []struct {
		live, machine uint64
		want          int
	}{
		{64 * mb, 24 * gb, 300},
		{192 * mb, 24 * gb, 100},
		{400 * mb, 24 * gb, leastPercent}, // not less than this, or a large heap is collected all the time
		{4 * mb, 24 * gb, mostPercent},    // a small process stays small
		{48 * mb, gb, 66},                 // a small machine has little to lend
		{0, 24 * gb, mostPercent},         // not collected yet
	} {
		if got := percent(c.live, c.machine, Bursts); got != c.want {
			t.Errorf("%d MB live on a machine of %d MB: grow by %d %%, want %d %%", c.live/mb, c.machine/mb, got, c.want)
		}
	}
}

// A process that should be small gets more room only as long as the collector has too much to do.
func TestTheAllowanceFollowsTheCollector(t *testing.T) {
	p := &pacing{least: Steady, allowance: Steady}
	collecting := 0.0
	for i, c := range []struct {
		share float64
		want  uint64
	}{{0.1, Steady}, {0.3, 2 * Steady}, {0.3, 4 * Steady}, {0.1, 4 * Steady}, {0.01, 2 * Steady}, {0, Steady}, {0, Steady}} {
		const used = 900 * time.Millisecond
		collecting += c.share * used.Seconds()
		if p.follow(collecting, used); p.allowance != c.want {
			t.Errorf("step %d: %d MB, want %d MB", i, p.allowance>>20, c.want>>20)
		}
	}
	for range 10 {
		collecting++
		p.follow(collecting, time.Second)
	}
	if p.allowance != Bursts {
		t.Errorf("%d MB are more than any process may have", p.allowance>>20)
	}
}

// touch runs a little of everything.
func touch(t *testing.T) {
	t.Helper()
	if _, err := os.ReadDir("/proc"); err != nil {
		t.Fatal(err)
	}
}

func fileRSS(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the kernel does not tell RssFile")
	return 0
}
