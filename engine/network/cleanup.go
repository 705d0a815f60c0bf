package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/gantryhq/gantry/engine/network/nat"
)

// Cleanup removes everything the instance of this data directory put into the
// kernel: namespaces, interfaces, bridge, nftables table, and the sysctl it changed.
// It needs nothing but the directory's name: neither a running server nor DIR/run nor
// DIR/network.json. Doing it again is no error. The plan is kept, so that the next
// start uses the same addresses.
func Cleanup(dataDir string) error {
	dataDir, err := filepath.Abs(dataDir)
	if err != nil {
		return fmt.Errorf("resolve data directory: %w", err)
	}
	plan, err := loadPlan(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		name := instanceName(dataDir)
		plan, err = Plan{Bridge: name, Table: name}, nil
	}
	if err != nil {
		return err
	}
	errs := []error{
		removePins(dataDir), removeLinks(plan.Bridge), nat.Delete(plan.Table),
		removeVolatile(netnsDir(dataDir)), removeVolatile(leaseDir(dataDir)),
		restoreSysctls(dataDir, plan),
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up network: %w", err)
	}
	return nil
}

func removePins(dataDir string) error {
	dir := netnsDir(dataDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list network namespaces: %w", err)
	}
	for _, e := range entries {
		if err := unpin(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// removeLinks deletes the bridge and its ports. Deleting the host end of a pair
// deletes the pod's end too.
func removeLinks(bridge string) error {
	br, err := netlink.LinkByName(bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	links, err := listLinks()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if l.Attrs().MasterIndex != br.Attrs().Index {
			continue
		}
		// It may be vanishing with its namespace at this moment.
		if err := netlink.LinkDel(l); err != nil && !isGone(l.Attrs().Index) {
			return fmt.Errorf("delete link %s: %w", l.Attrs().Name, err)
		}
	}
	if err := netlink.LinkDel(br); err != nil {
		return fmt.Errorf("delete bridge %s: %w", bridge, err)
	}
	return nil
}

func isGone(index int) bool {
	_, err := netlink.LinkByIndex(index)
	return errors.As(err, &netlink.LinkNotFoundError{})
}

// restoreSysctls gives back what was changed, once no other bridge needs it.
func restoreSysctls(dataDir string, plan Plan) error {
	if len(plan.Restore) == 0 {
		return nil
	}
	needed, err := forwardingNeeded()
	if err != nil {
		return err
	}
	for name, before := range plan.Restore {
		if needed {
			break
		}
		if err := (sysctl{name, before}).write(); err != nil {
			return err
		}
	}
	plan.Restore = nil
	return savePlan(dataDir, plan)
}

// forwardingNeeded reports whether some other software on this host routes between
// networks: another instance, a container engine, virtual machines or a tunnel.
func forwardingNeeded() (bool, error) {
	links, err := listLinks()
	if err != nil {
		return false, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		switch l.Type() {
		case "bridge", "veth", "tuntap", "wireguard", "ipvlan", "macvlan", "vxlan", "geneve":
			// Interface pairs of our own pods may still be vanishing.
			if !strings.HasPrefix(l.Attrs().Name, VethPrefix) {
				return true, nil
			}
		}
	}
	return false, nil
}
