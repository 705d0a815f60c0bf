package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
)

// lease is one pod's claim on an address, kept in DataDir/run/network/<uid>. It lives
// as long as the pinned network namespace: neither survives a reboot.
type lease struct {
	UID       string     `json:"uid"`
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	IP        netip.Addr `json:"ip"`
	Veth      string     `json:"veth"`
	HostPorts []HostPort `json:"hostPorts,omitempty"`
	// Attached is false while Attach is still configuring the interface.
	Attached bool `json:"attached"`
}

// leases hands out the addresses of a range. Its memory is authoritative; the
// files only serve the next process.
type leases struct {
	dir   string
	first netip.Addr
	size  uint32 // number of usable addresses, starting with first

	mu    sync.Mutex
	used  []uint64 // bitmap by offset from first
	next  uint32   // where to search: an address is reused only after a full turn
	byUID map[string]lease
	byIP  map[netip.Addr]string // UID
}

// openLeases reads the leases left by an earlier process and keeps those for which
// alive is true.
func openLeases(dir string, cidr netip.Prefix, alive func(lease) bool) (*leases, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create lease directory: %w", err)
	}
	// Without the network's address, the gateway and the broadcast address.
	size := uint32(1)<<(32-cidr.Bits()) - 3
	l := &leases{
		dir: dir, first: nth(cidr, 2), size: size,
		used:  make([]uint64, (size+63)/64),
		byUID: map[string]lease{}, byIP: map[netip.Addr]string{},
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		le, err := readLease(path)
		if err != nil || le.UID != e.Name() || !alive(le) || !l.adopt(le) {
			slog.Debug("drop stale network lease", "file", path, "err", err)
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("remove stale lease: %w", err)
			}
		}
	}
	return l, nil
}

func readLease(path string) (lease, error) {
	var le lease
	b, err := os.ReadFile(path)
	if err != nil {
		return le, err
	}
	return le, json.Unmarshal(b, &le)
}

// adopt takes over a lease of an earlier process. It reports false when the address
// is outside the range or already taken.
func (l *leases) adopt(le lease) bool {
	off, ok := l.offset(le.IP)
	if !ok || l.used[off/64]&(1<<(off%64)) != 0 {
		return false
	}
	l.used[off/64] |= 1 << (off % 64)
	l.byUID[le.UID], l.byIP[le.IP] = le, le.UID
	l.next = max(l.next, off+1)
	return true
}

func (l *leases) offset(ip netip.Addr) (uint32, bool) {
	if !ip.Is4() {
		return 0, false
	}
	a, b := ip.As4(), l.first.As4()
	off := be32(a) - be32(b)
	return off, off < l.size
}

func be32(b [4]byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// acquire returns the pod's lease, making one when it has none.
func (l *leases) acquire(want lease) (lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have, ok := l.byUID[want.UID]; ok {
		return have, nil
	}
	for i := uint32(0); i < l.size; i++ {
		off := (l.next + i) % l.size
		if l.used[off/64]&(1<<(off%64)) != 0 {
			continue
		}
		want.IP = netip.AddrFrom4(addOffset(l.first, off))
		if err := l.write(want); err != nil {
			return lease{}, err
		}
		l.used[off/64] |= 1 << (off % 64)
		l.next = off + 1
		l.byUID[want.UID], l.byIP[want.IP] = want, want.UID
		return want, nil
	}
	return lease{}, fmt.Errorf("no free address for pod %s/%s: all %d addresses are in use", want.Namespace, want.Name, l.size)
}

func addOffset(first netip.Addr, off uint32) [4]byte {
	v := be32(first.As4()) + off
	return [4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
}

// update replaces an existing lease.
func (l *leases) update(le lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.write(le); err != nil {
		return err
	}
	l.byUID[le.UID] = le
	return nil
}

func (l *leases) write(le lease) error {
	b, err := json.Marshal(le)
	if err != nil {
		return fmt.Errorf("encode lease of pod %s/%s: %w", le.Namespace, le.Name, err)
	}
	if err := replaceFile(filepath.Join(l.dir, le.UID), append(b, '\n')); err != nil {
		return fmt.Errorf("save lease of pod %s/%s: %w", le.Namespace, le.Name, err)
	}
	return nil
}

// release frees the pod's address. Releasing twice is no error.
func (l *leases) release(uid string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := os.Remove(filepath.Join(l.dir, uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove lease: %w", err)
	}
	le, ok := l.byUID[uid]
	if !ok {
		return nil
	}
	off, _ := l.offset(le.IP)
	l.used[off/64] &^= 1 << (off % 64)
	delete(l.byUID, uid)
	delete(l.byIP, le.IP)
	return nil
}

func (l *leases) get(uid string) (lease, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	le, ok := l.byUID[uid]
	return le, ok
}

func (l *leases) all() []lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]lease, 0, len(l.byUID))
	for _, le := range l.byUID {
		out = append(out, le)
	}
	return out
}

// namespaceOf returns the namespace of the pod with this address, or "".
func (l *leases) namespaceOf(ip netip.Addr) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byUID[l.byIP[ip]].Namespace
}
