package leak

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// stock is everything that belongs to a data directory.
func stock(dir string) ([]Thing, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	i := inventory{dir: dir, seen: dir, name: instanceName(dir), ours: map[int]bool{os.Getpid(): true}}
	steps := []func() error{i.groups, i.processes, i.mounts, i.links, i.builds, i.rules, i.leases, i.directories}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return i.things, nil
}

// inventory collects the things of one instance.
type inventory struct {
	dir    string
	seen   string // dir as `gantry serve` sees it, which may have mounts of its own
	name   string // of its control group, bridge and nftables table
	things []Thing
	inside map[int]bool // processes in its control groups
	spare  []netip.Addr // of network namespaces that no pod has yet; set by links, used by rules
	ours   map[int]bool // processes that were told of dir, and this one
}

func (i *inventory) add(t Thing) { i.things = append(i.things, t) }

// instanceName is what docs/formats/network.md says.
func instanceName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "gantry-" + hex.EncodeToString(sum[:4])
}

// lease is DIR/run/network/UID.
type lease struct {
	UID  string     `json:"uid"`
	IP   netip.Addr `json:"ip"`
	Veth string     `json:"veth"`
}

func (i *inventory) readLeases() (map[string]lease, error) {
	dir := filepath.Join(i.seen, "run", "network")
	out := map[string]lease{}
	for _, name := range names(dir) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // released since
		}
		if err != nil {
			return nil, err
		}
		var l lease
		if json.Unmarshal(data, &l) == nil {
			out[l.Veth] = l
		}
	}
	return out, nil
}

func (i *inventory) leases() error {
	leases, err := i.readLeases()
	if err != nil {
		return fmt.Errorf("read leases: %w", err)
	}
	for _, l := range leases {
		i.add(Thing{Kind: "address lease", Name: l.IP.String() + " of pod " + l.UID, Owner: l.UID})
	}
	return nil
}

// directories are what is on disk for pods and volumes.
func (i *inventory) directories() error {
	for _, d := range []struct {
		kind, dir string
		kept      bool
	}{
		{"container", "run/containers", false},
		{"runtime state", "run/runc", false},
		{"sandbox", "run/sandbox", false},
		{"root mount point", "run/rootfs", false},
		{"secrets", "run/memory", false},
		{"root directory", "images/roots", false},
		{"root directory", "images/trash", false},
		{"pod directory", "pods", true},
		{"log directory", "logs/pods", true},
		{"volume", "volumes", false},
	} {
		for _, name := range names(filepath.Join(i.seen, d.dir)) {
			t := owned(d.kind, d.dir+"/"+name)
			t.Kept = d.kept
			if t.Owner != "" {
				i.add(t)
			}
		}
	}
	return nil
}

func names(dir string) []string {
	entries, _ := os.ReadDir(dir) // one that is not there holds nothing
	out := make([]string, len(entries))
	for n, e := range entries {
		out[n] = e.Name()
	}
	return out
}

func readText(path string) string {
	data, _ := os.ReadFile(path) // what vanished meanwhile is empty
	return strings.TrimSpace(string(data))
}
