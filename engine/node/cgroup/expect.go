package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Expect gets the kernel ready for a process to be put into a group within the
// next milliseconds, and returns at once.
//
// On v1 the first move of a process after a quiet moment waits for an RCU grace
// period, 5 to 10 ms, because it takes a lock that every fork and every exit reads;
// moves that follow soon do not. This moves the calling process to where it is,
// which changes nothing but takes the lock, beside the other preparations of a
// container instead of after them. On v2 processes are born in their group.
func (t *Tree) Expect() {
	if t.unified != "" || !t.expecting.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer t.expecting.Store(false)
		file, ok := t.own()
		if !ok {
			return
		}
		// Without it the move that is expected only takes longer.
		_ = os.WriteFile(file, []byte(strconv.Itoa(os.Getpid())), 0)
	}()
}

// own is the file that lists the processes of the caller's own group.
func (t *Tree) own() (file string, ok bool) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(text)) {
		// hierarchy:controllers:path
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			if mount := t.v1[controller]; controller == "memory" && mount != "" {
				return filepath.Join(mount, fields[2], "cgroup.procs"), true
			}
		}
	}
	return "", false
}
