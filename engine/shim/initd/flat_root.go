package initd

import (
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// Where in what the kernel fills in.
const (
	modeAt = unsafe.Offsetof(unix.Stat_t{}.Mode)
	uidAt  = unsafe.Offsetof(unix.Stat_t{}.Uid)
	rdevAt = unsafe.Offsetof(unix.Stat_t{}.Rdev)
	typeAt = unsafe.Offsetof(unix.Statfs_t{}.Type)
)

// begin is what Main, begin and start do before the root.
func (f *flat) begin(r *recipe.Recipe) {
	f.call(unix.SYS_CLOSE_RANGE, 3, uint64(^uint32(0)), unix.CLOSE_RANGE_CLOEXEC)
	f.call(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	message := f.words(0)
	f.call(unix.SYS_READ, recipe.ControlFD, message, 1).into(readResult)
	f.compare(resultAt(readResult), ^uint32(0), 1) // or the shim has gone
	f.compare(uintptr(message), 0xff, recipe.MessageGo)
	if score := r.Process.OOMScoreAdj; score != "" {
		f.call(unix.SYS_OPENAT, uint64(cwdFD), f.text("/proc/self/oom_score_adj"), unix.O_WRONLY|unix.O_CLOEXEC).into(targetResult)
		f.call(unix.SYS_WRITE, 0, f.text(score), uint64(len(score))).use(0, result(targetResult))
	}
	for _, j := range r.Joins {
		f.call(unix.SYS_SETNS, uint64(descriptor(j.File)), j.Kind)
	}
	if r.CgroupNamespace {
		f.call(unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
	}
	f.call(unix.SYS_UMASK, 0)
	if r.Hostname != "" {
		f.call(unix.SYS_SETHOSTNAME, f.text(r.Hostname), uint64(len(r.Hostname)))
	}
	if r.Domainname != "" {
		f.call(unix.SYS_SETDOMAINNAME, f.text(r.Domainname), uint64(len(r.Domainname)))
	}
	if r.Process.Keyring != "" {
		f.call(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, f.text(r.Process.Keyring)).or(unix.ENOSYS, 0)
	}
	f.call(unix.SYS_MOVE_MOUNT, uint64(f.root), f.text(""), uint64(cwdFD), f.text("/root"), unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// mount is rootDir.mount.
func (f *flat) mount(m *recipe.Mount, directories []bool) bool {
	if m.Remount {
		f.open(m.Target, unix.O_PATH, unix.RESOLVE_NO_SYMLINKS, targetResult)
		f.setattr(result(targetResult), 0, f.attr(m.Set, m.Clear, 0))
		return true
	}
	if m.FS != "proc" && m.Target == "/proc" {
		return false
	}
	directory, tree := true, result(treeResult)
	if m.FS != "" {
		f.fileSystem(m, treeResult)
	} else {
		directory, tree = directories[m.File-1], handle{known: descriptor(m.File)}
	}
	f.target(m, directory)
	if m.FS != "proc" && !isEmulated(m.Target) {
		f.call(unix.SYS_FSTATFS, 0, uint64(f.info)).use(0, result(targetResult))
		f.compare(f.info+typeAt, ^uint32(0), unix.PROC_SUPER_MAGIC).or(unix.EPERM, 1)
		f.giveUp() // nothing may be mounted inside /proc
	}
	f.place(tree)
	if m.FS == "" && m.Set|m.Clear != 0 {
		f.setattr(tree, 0, f.attr(m.Set, m.Clear, 0))
	}
	if m.RSet|m.RClear != 0 {
		f.setattr(tree, unix.AT_RECURSIVE, f.attr(m.RSet, m.RClear, 0))
	}
	if m.Propagation != 0 {
		var recursive uint64
		if m.Propagation&unix.MS_REC != 0 {
			recursive = unix.AT_RECURSIVE
		}
		f.setattr(tree, recursive, f.attr(0, 0, m.Propagation&^unix.MS_REC))
	}
	return true
}

// target is rootDir.target.
func (f *flat) target(m *recipe.Mount, directory bool) {
	if !m.NoLinks {
		f.make(m.Target, directory, targetResult)
		return
	}
	first := len(f.steps)
	f.open(m.Target, unix.O_PATH, unix.RESOLVE_NO_SYMLINKS, targetResult).or(unix.ENOENT, 0)
	f.make(m.Target, directory, targetResult)
	f.open(m.Target, unix.O_PATH, unix.RESOLVE_NO_SYMLINKS, targetResult)
	f.steps[first].skip = uint32(len(f.steps) - first - 1)
}

// fileSystem is the function of this name.
func (f *flat) fileSystem(m *recipe.Mount, into byte) {
	f.call(unix.SYS_FSOPEN, f.text(m.FS), unix.FSOPEN_CLOEXEC).into(contextResult)
	config := func(command uint64, name, value string) {
		s := [2]uint64{}
		if name != "" {
			s[0] = f.text(name)
		}
		if command == unix.FSCONFIG_SET_STRING {
			s[1] = f.text(value)
		}
		f.call(unix.SYS_FSCONFIG, 0, command, s[0], s[1], 0).use(0, result(contextResult))
	}
	if m.Source != "" {
		config(unix.FSCONFIG_SET_STRING, "source", m.Source)
	}
	for _, option := range m.Options {
		if name, value, ok := strings.Cut(option, "="); ok {
			config(unix.FSCONFIG_SET_STRING, name, value)
		} else {
			config(unix.FSCONFIG_SET_FLAG, name, "")
		}
	}
	config(unix.FSCONFIG_CMD_CREATE, "", "")
	f.call(unix.SYS_FSMOUNT, 0, unix.FSMOUNT_CLOEXEC, m.Set).use(0, result(contextResult)).into(into)
}

// devices makes devices and links, whose directory has to be the same.
func (f *flat) devices(r *recipe.Recipe) bool {
	above := ""
	in := func(path string) (name string, ok bool) {
		dir, name := split(path)
		if above == "" {
			above = dir
			f.make(dir, true, devResult)
		}
		return name, above == dir
	}
	for i := range r.Devices {
		d := &r.Devices[i]
		name, ok := in(d.Path)
		if !ok || d.File != 0 {
			return false
		}
		number := unix.Mkdev(uint32(d.Major), uint32(d.Minor))
		f.call(unix.SYS_MKNODAT, 0, f.text(name), d.Mode, number).use(0, result(devResult))
		if d.UID|d.GID != 0 {
			f.call(unix.SYS_FCHOWNAT, 0, f.text(name), d.UID, d.GID, unix.AT_SYMLINK_NOFOLLOW).use(0, result(devResult))
		}
	}
	for _, l := range r.Links {
		name, ok := in(l.Name)
		if !ok {
			return false
		}
		f.call(unix.SYS_SYMLINKAT, f.text(l.Value), 0, f.text(name)).use(1, result(devResult)).or(unix.EEXIST, 0)
	}
	return true
}

// ownNull is rootDir.ownNull.
func (f *flat) ownNull() {
	for fd := range uint64(3) {
		f.call(unix.SYS_FSTAT, fd, uint64(f.info))
		f.compare(f.info+modeAt, unix.S_IFMT, unix.S_IFCHR).or(unix.EPERM, 6)
		f.compare(f.info+rdevAt, ^uint32(0), uint32(unix.Mkdev(1, 3))).or(unix.EPERM, 5)
		f.open("/dev/null", unix.O_RDWR|unix.O_NOCTTY, unix.RESOLVE_NO_SYMLINKS, targetResult)
		f.isNull(targetResult)
		f.call(unix.SYS_DUP3, 0, fd, 0).use(0, result(targetResult))
	}
}

// isNull gives up unless what is open is a null device: three steps.
func (f *flat) isNull(of byte) {
	f.call(unix.SYS_FSTAT, 0, uint64(f.info)).use(0, result(of))
	f.compare(f.info+modeAt, unix.S_IFMT, unix.S_IFCHR)
	f.compare(f.info+rdevAt, ^uint32(0), uint32(unix.Mkdev(1, 3)))
}

// sysctl is rootDir.sysctl.
func (f *flat) sysctl(s recipe.Setting) {
	name := s.Name
	if !strings.Contains(name, "/") {
		name = strings.ReplaceAll(name, ".", "/")
	}
	f.open("/proc/sys/"+name, unix.O_WRONLY, unix.RESOLVE_NO_SYMLINKS, targetResult)
	f.call(unix.SYS_WRITE, 0, f.text(s.Value), uint64(len(s.Value))).use(0, result(targetResult))
}

// protect is rootDir.protect.
func (f *flat) protect(r *recipe.Recipe) {
	for _, path := range r.ReadonlyPaths {
		f.open(path, unix.O_PATH, 0, targetResult).or(unix.ENOENT, 3).or(unix.ENOTDIR, 3)
		f.cloneOf(targetResult, unix.AT_RECURSIVE)
		f.setattr(result(treeResult), 0, f.attr(unix.MOUNT_ATTR_RDONLY, 0, 0))
		f.place(result(treeResult))
	}
	if len(r.MaskedPaths) == 0 {
		return
	}
	f.open("/dev/null", unix.O_PATH, unix.RESOLVE_NO_SYMLINKS, nullResult)
	f.isNull(nullResult)
	// Hardly a container has no directory to mask: its file system is made at once.
	f.fileSystem(&recipe.Mount{FS: "tmpfs", Source: "tmpfs", Set: unix.MOUNT_ATTR_RDONLY, Options: []string{"size=0k"}}, emptyResult)
	for _, path := range r.MaskedPaths {
		f.mask(path)
	}
}

// mask is rootDir.mask.
func (f *flat) mask(path string) {
	f.open(path, unix.O_PATH, 0, targetResult).or(unix.ENOENT, 5).or(unix.ENOTDIR, 5)
	f.call(unix.SYS_FSTAT, 0, uint64(f.info)).use(0, result(targetResult))
	f.compare(f.info+modeAt, unix.S_IFMT, unix.S_IFDIR).or(unix.EPERM, 1)
	f.cloneOf(emptyResult, 0).skip = 1
	f.cloneOf(nullResult, 0)
	f.place(result(treeResult))
}

// enter is rootDir.enter.
func (f *flat) enter(r *recipe.Recipe) {
	if r.ReadonlyRoot {
		f.setattr(handle{known: f.root}, 0, f.attr(unix.MOUNT_ATTR_RDONLY, 0, 0))
	}
	f.call(unix.SYS_FCHDIR, uint64(f.root))
	f.call(unix.SYS_PIVOT_ROOT, f.text("."), f.text("."))
	f.call(unix.SYS_UMOUNT2, f.text("."), unix.MNT_DETACH)
	f.call(unix.SYS_CHDIR, f.text("/"))
	if r.RootPropagation != 0 {
		f.call(unix.SYS_MOUNT, f.text(""), f.text("/"), f.text(""), r.RootPropagation, f.text(""))
	}
}

// become is the function of this name, by the same list of calls.
func (f *flat) become(r *recipe.Recipe, home string) bool {
	f.ownStreams(r)
	process := r.Process
	if home != "" {
		process.Env = append(process.Env[:len(process.Env):len(process.Env)], "HOME="+home)
	}
	p := &plan{memory: f}
	whole := *r
	whole.Process = process
	p.process(&whole)
	p.execute(&process)
	entered := f.words(1) // 0 when the working directory has been entered early
	for _, c := range p.calls {
		if c.on == late {
			f.compare(uintptr(entered), ^uint32(0), 0).or(unix.EPERM, 0).skip = 1
		}
		s := f.call(c.number)
		for i, arg := range c.args {
			s.args[i] = uint64(arg)
		}
		switch c.on {
		case ignored:
			s.goOn = 1
		case early:
			s.or(unix.EACCES, 0).or(unix.EPERM, 0).result = uint64(entered-flatBase) / 8
		case chained:
			return false
		case sought: // any other error another init explains
			s.or(unix.ENOENT, 0).or(unix.EACCES, 0)
		}
	}
	f.giveUp()
	return true
}

// ownStreams is the function of this name.
func (f *flat) ownStreams(r *recipe.Recipe) {
	for fd := range uint64(3) {
		f.call(unix.SYS_FSTAT, fd, uint64(f.info))
		f.compare(f.info+modeAt, unix.S_IFMT, unix.S_IFCHR).or(unix.EPERM, 0).skip = 2
		f.compare(f.info+uidAt, ^uint32(0), uint32(r.Process.UID)).or(unix.EPERM, 0).skip = 1
		f.call(unix.SYS_FCHOWN, fd, r.Process.UID, uint64(^uint32(0))).or(unix.EINVAL, 0).or(unix.EPERM, 0)
	}
}
