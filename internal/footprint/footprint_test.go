package footprint

import (
	"os"
	"strconv"
	"strings"
	"testing"
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
