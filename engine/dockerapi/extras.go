package dockerapi

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	types "github.com/moby/moby/api/types/container"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// What the Kubernetes API has no word for goes to the node as [runtime.Extras], in an
// annotation that it obeys in this namespace only.

// hostSpaces are the namespaces that a container shares with the host.
type hostSpaces struct{ network, pids, ipc bool }

// extrasOf is what a container asks for beyond what a pod says. Containers whose
// namespaces are joined must run.
func (s *Server) extrasOf(r *record) (runtime.Extras, hostSpaces, error) {
	h := r.HostConfig
	e := runtime.Extras{NoNetwork: h.NetworkMode.IsNone() || r.Config.NetworkDisabled, HostUTS: h.UTSMode.IsHost(), Domainname: r.Config.Domainname,
		Rlimits: rlimitsOf(h), Devices: devicesOf(h), DeviceRules: h.DeviceCgroupRules}
	host := hostSpaces{network: h.NetworkMode.IsHost(), pids: h.PidMode.IsHost(), ipc: h.IpcMode.IsHost()}
	if h.PidsLimit != nil {
		e.PidsLimit = *h.PidsLimit
	}
	if h.OomScoreAdj != 0 {
		e.OOMScoreAdj = &h.OomScoreAdj
	}
	if h.ShmSize != shmDefault {
		e.ShmBytes = h.ShmSize
	}
	for _, m := range r.Mounts {
		if m.Type == "tmpfs" {
			e.Tmpfs = append(e.Tmpfs, runtime.Mount{Target: m.Destination, Options: m.tmpfs()})
		}
	}
	var err error
	network := func(h *types.HostConfig) (string, bool) { return string(h.NetworkMode), h.NetworkMode.IsHost() }
	if e.NetworkOf, host.network, err = s.joined(string(h.NetworkMode), host.network, "network", network); err != nil {
		return e, host, err
	}
	ipc := func(h *types.HostConfig) (string, bool) { return string(h.IpcMode), h.IpcMode.IsHost() }
	if e.IPCOf, host.ipc, err = s.joined(string(h.IpcMode), host.ipc, "ipc", ipc); err != nil {
		return e, host, err
	}
	pids := func(h *types.HostConfig) (string, bool) { return string(h.PidMode), h.PidMode.IsHost() }
	e.PIDsOf, host.pids, err = s.joined(string(h.PidMode), host.pids, "pid", pids)
	return e, host, err
}

// joined finds the pod whose namespace a mode "container:ID" means, or that it is the
// host's: that container may itself have joined another one.
func (s *Server) joined(mode string, host bool, what string, of func(*types.HostConfig) (string, bool)) (uid string, hosts bool, err error) {
	for range 16 {
		ref, is := strings.CutPrefix(mode, "container:")
		if !is {
			return uid, host, nil
		}
		c, err := s.find(ref)
		if err != nil {
			return "", false, err
		}
		s.mu.Lock()
		r, pod := c.rec, c.pod
		s.mu.Unlock()
		if pod == nil || !stateOf(&r, pod).running() {
			return "", false, conflict("cannot join %s of a non running container: %s", what, r.ID)
		}
		uid = string(pod.UID)
		if mode, host = of(r.HostConfig); host {
			uid = ""
		}
	}
	return "", false, conflict("containers join each other's %s in a circle", what)
}

// resolveJoined replaces names in modes "container:NAME" by ids, so that they go on
// meaning the same container. Who joins a network has its container's host name.
func (s *Server) resolveJoined(r *record) error {
	h := r.HostConfig
	for _, ref := range []struct {
		mode string
		set  func(id string)
	}{
		{string(h.NetworkMode), func(id string) { h.NetworkMode = types.NetworkMode(id) }},
		{string(h.IpcMode), func(id string) { h.IpcMode = types.IpcMode(id) }},
		{string(h.PidMode), func(id string) { h.PidMode = types.PidMode(id) }},
	} {
		name, is := strings.CutPrefix(ref.mode, "container:")
		if !is {
			continue
		}
		c, err := s.find(name)
		if err != nil {
			return err
		}
		other := s.recordOf(c)
		ref.set("container:" + other.ID)
		if h.NetworkMode.ConnectedContainer() == other.ID {
			r.Config.Hostname = other.Config.Hostname
		}
	}
	return nil
}

// extrasText is the annotation's text, "" for nothing.
func extrasText(e runtime.Extras) (string, error) {
	blob, err := json.Marshal(e)
	if err != nil || string(blob) == "{}" {
		return "", err
	}
	return string(blob), nil
}

func rlimitsOf(h *types.HostConfig) (out []runtime.Rlimit) {
	for _, u := range h.Ulimits {
		out = append(out, runtime.Rlimit{Name: "RLIMIT_" + strings.ToUpper(u.Name), Soft: limitOf(u.Soft), Hard: limitOf(u.Hard)})
	}
	return out
}

// limitOf is a limit of which -1 is none.
func limitOf(n int64) uint64 {
	if n < 0 {
		return math.MaxUint64
	}
	return uint64(n)
}

func devicesOf(h *types.HostConfig) (out []runtime.Device) {
	for _, d := range h.Devices {
		out = append(out, runtime.Device{Host: d.PathOnHost, Inside: d.PathInContainer, Access: d.CgroupPermissions})
	}
	return out
}

var validRule = regexp.MustCompile(`^[abc] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}$`)

// refuseDevices judges --device, --device-cgroup-rule and --ulimit.
func refuseDevices(h *types.HostConfig) error {
	for _, d := range h.Devices {
		if _, err := os.Stat(d.PathOnHost); errors.Is(err, fs.ErrNotExist) || !filepath.IsAbs(d.PathOnHost) {
			return invalid("--device %s is not possible: this machine has no such file", d.PathOnHost)
		}
		if strings.Trim(d.CgroupPermissions, "rwm") != "" {
			return invalid("--device %s: invalid permissions %q: they are letters of rwm", d.PathOnHost, d.CgroupPermissions)
		}
		if d.PathInContainer != "" && !path.IsAbs(d.PathInContainer) {
			return invalid("--device %s: the path in the container must be absolute, not %q", d.PathOnHost, d.PathInContainer)
		}
	}
	for _, rule := range h.DeviceCgroupRules {
		if !validRule.MatchString(rule) {
			return invalid("--device-cgroup-rule %q: it is written as 'c 10:200 rwm', with a or b for the type and * for any number", rule)
		}
	}
	for _, u := range h.Ulimits {
		if u == nil {
			return invalid("--ulimit: one of them is null")
		}
		if _, err := (&units.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard}).GetRlimit(); err != nil {
			return invalid("--ulimit %s: %v", u.Name, err)
		}
		if u.Hard >= 0 && (u.Soft > u.Hard || u.Soft < 0) {
			return invalid("--ulimit %s: the soft limit %d exceeds the hard limit %d", u.Name, u.Soft, u.Hard)
		}
	}
	if h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000 {
		return invalid("--oom-score-adj %d: it is between -1000 and 1000", h.OomScoreAdj)
	}
	return nil
}

// tmpfs is the options of a tmpfs as mount takes them: docker's, and what was asked for
// instead.
func (m *mountRecord) tmpfs() []string {
	options := []string{"noexec", "nosuid", "nodev"}
	mode := "mode=1777"
	if m.ReadOnly {
		options = append(options, "ro")
	}
	if m.SizeBytes > 0 {
		options = append(options, "size="+strconv.FormatInt(m.SizeBytes, 10))
	}
	for _, option := range m.Options {
		key, _, _ := strings.Cut(option, "=")
		switch key {
		case "exec", "suid", "dev":
			options = slices.DeleteFunc(options, func(o string) bool { return o == "no"+key })
		case "mode":
			mode = option
		case "noexec", "nosuid", "nodev", "rw", "ro", "size":
		default:
			options = append(options, option)
		}
	}
	return append(options, mode)
}

// tmpfsOptions reads the options of --tmpfs, and those of --mount.
func tmpfsOptions(list []string, m *mountRecord) error {
	for _, option := range list {
		key, value, hasValue := strings.Cut(option, "=")
		switch key {
		case "":
			continue
		case "size":
			n, err := units.RAMInBytes(value)
			if err != nil || n < 0 {
				return invalid("--tmpfs %s: invalid option %q: a size is written as 64m", m.Destination, option)
			}
			m.SizeBytes = n
		case "ro":
			m.ReadOnly = true
		case "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "noatime", "nodiratime", "relatime":
			if hasValue {
				return invalid("--tmpfs %s: option %q has no value", m.Destination, key)
			}
		case "mode":
			if _, err := strconv.ParseUint(value, 8, 12); err != nil {
				return invalid("--tmpfs %s: invalid option %q: a mode is written as 1777", m.Destination, option)
			}
		case "uid", "gid", "nr_inodes", "nr_blocks":
			if _, err := units.RAMInBytes(value); err != nil {
				return invalid("--tmpfs %s: invalid option %q: a number is needed", m.Destination, option)
			}
		default:
			return invalid("--tmpfs %s: option %q is not possible: there are size, mode, uid, gid, nr_inodes, nr_blocks, ro, exec, suid, dev and the times", m.Destination, key)
		}
		m.Options = append(m.Options, option)
	}
	return nil
}
