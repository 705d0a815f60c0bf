package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/gantryhq/gantry/engine/network/nat"
)

// Report is what is there of an instance's network.
type Report struct {
	Plan     Plan
	DNS      netip.Addr
	Bridge   bool // the bridge is up
	Table    bool // the nftables table is there
	Pods     []PodReport
	Problems []Problem
}

// PodReport is one attached pod.
type PodReport struct {
	UID, Namespace, Name string
	IP                   netip.Addr
	HostPorts            []HostPort
}

// Problem is something on this host that keeps pods from communicating.
type Problem struct{ What, Remedy string }

// Inspect reports on the network of the data directory without changing anything. The
// instance need not run. A directory that has no network yet is reported as such by
// [fs.ErrNotExist].
func Inspect(dataDir string) (Report, error) {
	dataDir, err := filepath.Abs(dataDir)
	if err != nil {
		return Report{}, fmt.Errorf("resolve data directory: %w", err)
	}
	plan, err := loadPlan(dataDir)
	if err != nil {
		return Report{}, err
	}
	r := Report{Plan: plan, DNS: plan.DNS()}
	link, err := netlink.LinkByName(plan.Bridge)
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return Report{}, fmt.Errorf("find bridge %s: %w", plan.Bridge, err)
	}
	r.Bridge = err == nil && link.Attrs().Flags&1 != 0 // IFF_UP
	if r.Table, err = nat.Exists(plan.Table); err != nil {
		return Report{}, err
	}
	if r.Pods, err = attachedPods(dataDir); err != nil {
		return Report{}, err
	}
	r.Problems, err = problems(plan, r.Bridge)
	return r, err
}

func attachedPods(dataDir string) ([]PodReport, error) {
	dir := leaseDir(dataDir)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	var out []PodReport
	for _, e := range entries {
		le, err := readLease(filepath.Join(dir, e.Name()))
		if err != nil || le.UID != e.Name() || !isPinned(filepath.Join(netnsDir(dataDir), le.Pin)) {
			continue // it is being written, or stale
		}
		out = append(out, PodReport{le.UID, le.Namespace, le.Name, le.IP, le.HostPorts})
	}
	slices.SortFunc(out, func(a, b PodReport) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return out, nil
}

func problems(plan Plan, running bool) ([]Problem, error) {
	var out []Problem
	if running {
		for _, s := range hostSysctls {
			if now, err := s.read(); err == nil && now != s.value {
				out = append(out, Problem{
					fmt.Sprintf("%s is %s: another program changed it back", s.name, now),
					fmt.Sprintf("sysctl -w %s=%s, and keep the other program from changing it", s.name, s.value),
				})
			}
		}
	}
	dropping, err := nat.DroppingForward(plan.Table)
	if err != nil {
		return nil, err
	}
	for _, chain := range dropping {
		out = append(out, Problem{
			fmt.Sprintf("the firewall chain %s drops forwarded packets by default, pods' packets among them", chain),
			fmt.Sprintf("accept them in it: nft insert rule %s iifname %q accept; nft insert rule %s oifname %q accept", chain, plan.Bridge, chain, plan.Bridge),
		})
	}
	return out, nil
}
