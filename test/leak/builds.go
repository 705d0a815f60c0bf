package leak

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// builds finds what the build worker has in the kernel for its steps. None of it has
// an owner in the API; after `gantry down --all` nothing of it may be there.
func (i *inventory) builds() error {
	hash := strings.TrimPrefix(i.name, "gantry-")
	name := "gantry-build-" + hash
	links, err := uninterrupted(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "gb"+hash) {
			i.add(Thing{Kind: "interface of a build step", Name: l.Attrs().Name})
		}
	}
	out, err := exec.Command("nft", "list", "table", "ip", name).CombinedOutput()
	if err == nil {
		i.add(Thing{Kind: "nftables table", Name: name})
	} else if !strings.Contains(string(out), "No such file or directory") {
		return fmt.Errorf("nft list table: %w: %s", err, out)
	}
	for _, pattern := range []string{"/run/" + name, "/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, path := range found {
			if _, err := os.Stat(path); err == nil {
				i.add(Thing{Kind: "sandbox of builds", Name: path})
			}
		}
	}
	return nil
}
