package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestCapabilitiesAreGivenUp gives them up in a process of its own, of several
// threads.
func TestCapabilitiesAreGivenUp(t *testing.T) {
	const role = "GANTRY_TEST_CAPABILITIES"
	if os.Getenv(role) == "" {
		c := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
		c.Env = append(os.Environ(), role+"=1")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	for range 4 { // threads that are there before
		go unix.Poll(nil, int(time.Minute/time.Millisecond))
	}
	if err := keepCapabilities(unix.CAP_NET_BIND_SERVICE); err != nil {
		t.Fatal(err)
	}
	go unix.Poll(nil, int(time.Minute/time.Millisecond)) // and after
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads %v, %v", tasks, err)
	}
	most := uint64(1) << unix.CAP_NET_BIND_SERVICE
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for _, name := range []string{"CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"} {
			if name == "CapBnd" && os.Geteuid() != 0 {
				continue
			}
			_, after, _ := strings.Cut(string(text), name+":\t")
			var set uint64
			if _, err := fmt.Sscanf(after, "%x", &set); err != nil || set&^most != 0 {
				t.Errorf("%s: %s is %#x, %v; at most %#x is wanted", task, name, set, err, most)
			}
		}
		if !strings.Contains(string(text), "NoNewPrivs:\t1") {
			t.Errorf("%s may gain privileges by executing a program", task)
		}
	}
}
