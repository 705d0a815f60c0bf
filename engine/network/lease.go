package network

import (
	"cmp"
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

// lease is one pod's claim on a berth, kept in DataDir/run/network/<uid>. It lives
// as long as the pinned network namespace: neither survives a reboot.
type lease struct {
	UID       string   `json:"uid"`
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Workload  Workload `json:"workload,omitzero"`
	berth
	HostPorts []HostPort `json:"hostPorts,omitempty"`
	// Attached is false while Attach still sets the pod's sysctls.
	Attached bool `json:"attached"`
}

// leases hands out the addresses of a range, and knows which pod has which. Its memory
// is authoritative; the files only serve the next process.
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
// alive is true. Before it forgets another, drop is called.
func openLeases(dir string, cidr netip.Prefix, alive func(lease) bool, drop func(lease) error) (*leases, error) {
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
		if err == nil && le.UID == e.Name() && alive(le) && l.take(le.IP) {
			l.byUID[le.UID], l.byIP[le.IP] = le, le.UID
			continue
		}
		slog.Debug("drop stale network lease", "file", path, "err", err)
		if le.Pin != "" {
			if err := drop(le); err != nil {
				return nil, err
			}
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale lease: %w", err)
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
	if err := json.Unmarshal(b, &le); err != nil {
		return le, err
	}
	le.Pin = cmp.Or(le.Pin, le.UID) // as it was before namespaces were made ahead
	return le, nil
}

// take reserves this address. It reports false when the address is outside the range
// or already taken.
func (l *leases) take(ip netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	off, ok := l.offset(ip)
	if !ok || l.used[off/64]&(1<<(off%64)) != 0 {
		return false
	}
	l.used[off/64] |= 1 << (off % 64)
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

// reserve returns a free address, which stays taken until it is freed.
func (l *leases) reserve() (netip.Addr, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := uint32(0); i < l.size; i++ {
		off := (l.next + i) % l.size
		if l.used[off/64]&(1<<(off%64)) != 0 {
			continue
		}
		l.used[off/64] |= 1 << (off % 64)
		l.next = off + 1
		return netip.AddrFrom4(addOffset(l.first, off)), nil
	}
	return netip.Addr{}, fmt.Errorf("no free address: all %d of the pod range are in use", l.size)
}

// taken reports whether the address is reserved.
func (l *leases) taken(ip netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	off, ok := l.offset(ip)
	return ok && l.used[off/64]&(1<<(off%64)) != 0
}

// free ends the reservation of an address.
func (l *leases) free(ip netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if off, ok := l.offset(ip); ok {
		l.used[off/64] &^= 1 << (off % 64)
	}
}

func addOffset(first netip.Addr, off uint32) [4]byte {
	v := be32(first.As4()) + off
	return [4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
}

// assign makes or replaces the lease of a pod. The address is reserved before.
func (l *leases) assign(le lease) error {
	b, err := json.Marshal(le)
	if err != nil {
		return fmt.Errorf("encode lease: %w", err)
	}
	if err := replaceFile(filepath.Join(l.dir, le.UID), append(b, '\n')); err != nil {
		return fmt.Errorf("save lease: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byUID[le.UID], l.byIP[le.IP] = le, le.UID
	return nil
}

// release ends the pod's lease; its address stays reserved. Releasing twice is no
// error.
func (l *leases) release(uid string) error {
	if err := os.Remove(filepath.Join(l.dir, uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove lease: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if le, ok := l.byUID[uid]; ok {
		delete(l.byUID, uid)
		delete(l.byIP, le.IP)
	}
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

// of returns the lease of the pod with this address.
func (l *leases) of(ip netip.Addr) (lease, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	le, ok := l.byUID[l.byIP[ip]]
	return le, ok
}

// namespaceOf returns the namespace of the pod with this address, or "".
func (l *leases) namespaceOf(ip netip.Addr) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byUID[l.byIP[ip]].Namespace
}
