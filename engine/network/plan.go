package network

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

	"github.com/vishvananda/netlink"
)

// Plan is what one instance calls its own in the kernel. It is chosen once, when
// the data directory is new, and kept in DataDir/network.json.
type Plan struct {
	Version     int          `json:"version"`
	Bridge      string       `json:"bridge"` // at most 15 bytes, the kernel's limit
	Table       string       `json:"table"`
	PodCIDR     netip.Prefix `json:"podCIDR"`
	ServiceCIDR netip.Prefix `json:"serviceCIDR"`

	// Restore holds the former value of every host-wide sysctl that was changed.
	Restore map[string]string `json:"restore,omitempty"`
}

const (
	planVersion = 1
	// dnsOffset is where Kubernetes installers put cluster DNS in the service range.
	dnsOffset = 10
)

// Gateway is the host's address in the pods' network: the first of PodCIDR.
func (p Plan) Gateway() netip.Addr { return nth(p.PodCIDR, 1) }

// DNS is the address of cluster DNS: the tenth of ServiceCIDR.
func (p Plan) DNS() netip.Addr { return nth(p.ServiceCIDR, dnsOffset) }

func planPath(dataDir string) string { return filepath.Join(dataDir, "network.json") }

// MakePlan returns the plan of the data directory, choosing and saving one when there
// is none yet. It touches nothing in the kernel, so that the address ranges are
// known before the API server, which allocates service addresses, is built.
//
// A zero PodCIDR or ServiceCIDR means the one saved before, or the first free one. A
// given one that the host already routes elsewhere is refused.
func MakePlan(dataDir string, podCIDR, serviceCIDR netip.Prefix) (Plan, error) {
	dataDir, err := filepath.Abs(dataDir)
	if err != nil {
		return Plan{}, fmt.Errorf("resolve data directory: %w", err)
	}
	p, err := loadPlan(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		name := instanceName(dataDir)
		p = Plan{Version: planVersion, Bridge: name, Table: name}
	} else if err != nil {
		return Plan{}, err
	}
	taken, err := takenRanges(p.Bridge)
	if err != nil {
		return Plan{}, err
	}
	p.PodCIDR, err = chooseRange("pod", podCIDR, p.PodCIDR, 244, 255, taken)
	if err != nil {
		return Plan{}, err
	}
	taken = append(taken, claim{p.PodCIDR, "the pods of this instance"})
	p.ServiceCIDR, err = chooseRange("service", serviceCIDR, p.ServiceCIDR, 96, 127, taken)
	if err != nil {
		return Plan{}, err
	}
	return p, savePlan(dataDir, p)
}

// instanceName is unique per data directory on this machine, and short enough for
// an interface name.
func instanceName(dataDir string) string {
	sum := sha256.Sum256([]byte(dataDir))
	return "gantry-" + hex.EncodeToString(sum[:4])
}

func loadPlan(dataDir string) (Plan, error) {
	b, err := os.ReadFile(planPath(dataDir))
	if err != nil {
		return Plan{}, fmt.Errorf("read network plan: %w", err)
	}
	var p Plan
	if err := json.Unmarshal(b, &p); err != nil {
		return Plan{}, fmt.Errorf("parse network plan %s: %w (restore the file, or delete it to have the names and ranges chosen again)", planPath(dataDir), err)
	}
	if p.Version != planVersion {
		return Plan{}, fmt.Errorf("network plan %s has version %d, this program knows version %d: use the program that wrote it", planPath(dataDir), p.Version, planVersion)
	}
	return p, nil
}

func savePlan(dataDir string, p Plan) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("encode network plan: %w", err)
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	if err := replaceFile(planPath(dataDir), append(b, '\n')); err != nil {
		return fmt.Errorf("save network plan: %w", err)
	}
	return nil
}

// replaceFile writes the file so that a reader sees the old or the new content.
func replaceFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err := errors.Join(err, tmp.Close()); err != nil {
		os.Remove(tmp.Name())
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// claim is an address range somebody uses already.
type claim struct {
	prefix netip.Prefix
	by     string
}

// takenRanges lists every range this host routes or has an address in, except
// default routes and those of our own bridge.
func takenRanges(ownBridge string) ([]claim, error) {
	own := -1
	if l, err := netlink.LinkByName(ownBridge); err == nil {
		own = l.Attrs().Index
	}
	var taken []claim
	routes, err := listRoutes()
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.LinkIndex == own || r.Dst == nil {
			continue
		}
		if p, ok := prefixOf(r.Dst.IP, r.Dst.Mask); ok && p.Bits() > 0 {
			taken = append(taken, claim{p, "a route of this host"})
		}
	}
	addrs, err := listAddrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if a.LinkIndex == own {
			continue
		}
		if p, ok := prefixOf(a.IP, a.Mask); ok {
			taken = append(taken, claim{p, "an address of this host"})
		}
	}
	return taken, nil
}

func prefixOf(ip, mask []byte) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.Prefix{}, false
	}
	bits := 0
	for _, b := range mask {
		for ; b != 0; b <<= 1 {
			bits++
		}
	}
	p, err := addr.Unmap().Prefix(bits)
	return p, err == nil
}

// chooseRange picks the wanted range, else the saved one, else the first free
// 10.N.0.0/16 with N from first to last.
func chooseRange(what string, wanted, saved netip.Prefix, first, last byte, taken []claim) (netip.Prefix, error) {
	if wanted.IsValid() {
		saved = wanted.Masked()
	}
	if saved.IsValid() {
		if !saved.Addr().Is4() || saved.Bits() > 24 || saved.Bits() < 8 {
			return netip.Prefix{}, fmt.Errorf("%s range %s cannot be used: it must be an IPv4 range between /8 and /24", what, saved)
		}
		if by, ok := takenBy(saved, taken); ok {
			return netip.Prefix{}, fmt.Errorf("%s range %s overlaps %s: choose a range that nothing else on this host uses", what, saved, by)
		}
		return saved, nil
	}
	for n := int(first); n <= int(last); n++ {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 16)
		if _, ok := takenBy(p, taken); !ok {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("no free %s range between 10.%d.0.0/16 and 10.%d.0.0/16: choose one that nothing else on this host uses", what, first, last)
}

func takenBy(p netip.Prefix, taken []claim) (string, bool) {
	for _, c := range taken {
		if c.prefix.Overlaps(p) {
			return fmt.Sprintf("%s, %s", c.prefix, c.by), true
		}
	}
	return "", false
}

// nth returns the nth address of an IPv4 range.
func nth(p netip.Prefix, n uint32) netip.Addr {
	b := p.Masked().Addr().As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += n
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}
