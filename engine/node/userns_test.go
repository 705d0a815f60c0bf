package node

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

func TestIDsOfASandboxAreNobodyElsesUntilItIsGone(t *testing.T) {
	claims, sandboxes := filepath.Join(t.TempDir(), "ids"), t.TempDir()
	seen := map[uint32]string{}
	claim := func(name string) uint32 {
		t.Helper()
		dir := filepath.Join(sandboxes, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		first, err := claimIDs(claims, dir)
		if err != nil {
			t.Fatal(err)
		}
		if first < firstPodID || uint64(first)+idsPerPod > firstPodID+podIDSlots*idsPerPod || (first-firstPodID)%idsPerPod != 0 {
			t.Fatalf("the ids from %#x are not a slot of the range", first)
		}
		return first
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		first := claim(name)
		if other, taken := seen[first]; taken {
			t.Fatalf("%s has the ids of %s", name, other)
		}
		seen[first] = name
	}
	// The next claim of the same sandbox begins its search at the slot it has.
	if again := claim("a"); seen[again] != "" {
		t.Errorf("ids in use by %s were given away", seen[again])
	}
	first := claim("e")
	releaseIDs(claims, &runtime.UserNS{HostID: first, Length: idsPerPod})
	if again := claim("e"); again != first {
		t.Errorf("released ids are not free: got %#x, want %#x", again, first)
	}
	releaseIDs(claims, &runtime.UserNS{HostID: first, Length: idsPerPod})
	slot := filepath.Join(claims, strconv.Itoa(int((first-firstPodID)/idsPerPod)))
	if err := os.Symlink(filepath.Join(sandboxes, "lost"), slot); err != nil {
		t.Fatal(err)
	}
	if again := claim("e"); again != first {
		t.Errorf("ids of a sandbox that was lost are not free: got %#x, want %#x", again, first)
	}
	if err := releaseAllIDs(claims, sandboxes); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(claims); len(left) != 0 {
		t.Errorf("claims left: %v", left)
	}
}
