package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantryhq/gantry/engine/store"
)

// crashFile, when set, makes this test binary the victim of TestCrash.
const crashFile = "GANTRY_STORE_CRASH_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashFile); path != "" {
		victim(path)
	}
	os.Exit(m.Run())
}

// victim writes until it is killed and says on standard output what was
// acknowledged: durable and relaxed writes, deletions, revisions.
func victim(path string) {
	s, err := store.Open(path, store.Options{RelaxedDelay: 3 * time.Millisecond})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("open", s.Revision(), "-", 0)
	for n := range 6 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("/r/%d/%d", n, i%20)
				relaxed := n%3 == 2
				kind := "durable"
				if relaxed {
					kind = "relaxed"
				}
				if !relaxed && i%7 == 6 {
					fmt.Println("deleting", 0, key, 0)
					_, rev, err := s.Delete(context.Background(), key, store.Any, store.DeleteOptions{})
					if err == nil {
						fmt.Println("deleted", rev, key, 0)
					}
					continue
				}
				data := strings.Repeat(fmt.Sprint(i, ","), 1+i%500)
				e, err := s.Update(context.Background(), key, store.Any, store.Value{Data: []byte(data), Relaxed: relaxed})
				if err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				fmt.Println(kind, e.ModRevision, key, len(data))
			}
		}()
	}
	select {}
}

// acknowledged is what the victims said, by key: the latest revision and the
// length of its value, or -1 when deleted.
type acknowledged struct {
	revision uint64
	length   int
}

func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	durable := map[string]acknowledged{}
	newest := uint64(0) // of all revisions anybody saw
	for round := range rounds {
		after := time.Duration(rng.IntN(40_000)) * time.Microsecond
		for _, line := range runVictim(t, path, after) {
			var kind, key string
			var a acknowledged
			if n, _ := fmt.Sscan(line, &kind, &a.revision, &key, &a.length); n != 4 {
				if kind == "error" {
					t.Fatal(line)
				}
				continue // cut off by the kill
			}
			switch kind {
			case "deleting": // it may happen without being acknowledged
				delete(durable, key)
			case "deleted":
				a.length = -1
				fallthrough
			case "durable":
				if a.revision > durable[key].revision {
					durable[key] = a
				}
			case "open":
				if a.revision < newest {
					t.Fatalf("round %d: opened at revision %d, %d was seen before the crash", round, a.revision, newest)
				}
			}
			newest = max(newest, a.revision)
		}
	}
	s := open(t, path, store.Options{})
	if s.Revision() < newest {
		t.Errorf("opened at revision %d, %d was seen before the crash", s.Revision(), newest)
	}
	for key, a := range durable {
		e, _ := s.Get(key)
		switch {
		case e == nil && a.length >= 0:
			t.Errorf("%s, acknowledged at %d, is gone", key, a.revision)
		case e == nil:
		case e.ModRevision < a.revision:
			t.Errorf("%s is at revision %d, %d was acknowledged", key, e.ModRevision, a.revision)
		case e.ModRevision == a.revision && len(e.Data) != a.length:
			t.Errorf("%s holds %d bytes, %d were acknowledged", key, len(e.Data), a.length)
		}
	}
	t.Logf("%d keys survived %d crashes, revision %d", s.Stats("").Keys, rounds, s.Revision())
}

// runVictim kills a writing process some time after it opened the file.
func runVictim(t *testing.T, path string, after time.Duration) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashFile+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		lines = append(lines, sc.Text())
		if len(lines) == 1 {
			time.AfterFunc(after, func() { cmd.Process.Kill() })
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return lines
}
