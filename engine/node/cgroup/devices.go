package cgroup

import (
	"fmt"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// everybodys are the rules that follow those of a container: making any device
// file is allowed, using them is for those that every container has.
func everybodys() []specs.LinuxDeviceCgroup {
	rule := func(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: access}
	}
	return []specs.LinuxDeviceCgroup{
		rule("c", -1, -1, "m"), rule("b", -1, -1, "m"),
		rule("c", 1, 3, "rwm"), rule("c", 1, 5, "rwm"), rule("c", 1, 7, "rwm"), // null, zero, full
		rule("c", 1, 8, "rwm"), rule("c", 1, 9, "rwm"), // random, urandom
		rule("c", 5, 0, "rwm"), rule("c", 5, 2, "rwm"), // tty, ptmx
		rule("c", 136, -1, "rwm"), // terminals
	}
}

// limitDevices sets which devices the processes of a group may use.
func (t *Tree) limitDevices(path string, r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	rules := append(append([]specs.LinuxDeviceCgroup{}, r.Devices...), everybodys()...)
	if t.unified != "" {
		return t.limitDevicesV2(path, rules)
	}
	dir := t.Dir("devices", path)
	if dir == "" {
		return fmt.Errorf("limit devices: the host has not mounted the devices controller")
	}
	var files [2]int // devices.deny and devices.allow
	for i, name := range []string{"devices.deny", "devices.allow"} {
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("limit devices: open %s in %s: %w", name, dir, err)
		}
		defer unix.Close(fd)
		files[i] = fd
	}
	for _, rule := range rules {
		text, all, err := ruleText(rule)
		if err != nil {
			return err
		}
		file := files[0]
		if rule.Allow {
			file = files[1]
		}
		if err := writeAll(file, text); err != nil {
			return fmt.Errorf("device rule %q: %w", text, err)
		}
		if all && rule.Allow {
			return nil // nothing is left to allow
		}
	}
	return nil
}

// ruleText writes a rule as the kernel's file takes it. All means that it is
// about every device.
func ruleText(r specs.LinuxDeviceCgroup) (text string, all bool, err error) {
	kind := r.Type
	if kind == "" {
		kind = "a"
	}
	if kind == "u" {
		kind = "c"
	}
	if kind != "a" && kind != "b" && kind != "c" {
		return "", false, fmt.Errorf("device type %q: one of a, b, c is needed", r.Type)
	}
	if kind == "a" {
		return "a", true, nil
	}
	access := r.Access
	if access == "" {
		access = "rwm"
	}
	return kind + " " + number(r.Major) + ":" + number(r.Minor) + " " + access, false, nil
}

func number(n *int64) string {
	if n == nil || *n < 0 {
		return "*"
	}
	return strconv.FormatInt(*n, 10)
}
