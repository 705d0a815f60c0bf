package initd

import (
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// emulated are the files of /proc that may be covered: lxcfs gives containers
// their own view of them.
var emulated = [...]string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg", "/proc/slabinfo",
	"/proc/net/dev", "/proc/sys/kernel/ns_last_pid",
}

// guardProc refuses a mount that would stand in for /proc or for a part of it:
// what is masked there, and what security modules are told through it, must be
// the kernel's own. It looks at what the target is, not at its name, so that a
// link of the image does not help.
func guardProc(m *recipe.Mount, tree, target int) error {
	if m.FS == "proc" {
		return nil
	}
	for _, name := range emulated {
		if m.Target == name {
			return nil
		}
	}
	below, err := onProc(target)
	if err != nil {
		return err
	}
	if below {
		return text("it is inside /proc, where nothing may be mounted")
	}
	if m.Target != "/proc" {
		return nil
	}
	if own, err := onProc(tree); err != nil || own {
		return err
	}
	return text("only a proc file system may be mounted there")
}

func onProc(fd int) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return false, err
	}
	return fs.Type == unix.PROC_SUPER_MAGIC, nil
}
