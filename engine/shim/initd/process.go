package initd

import (
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// call is one system call, with its arguments ready. Becoming the container's
// process is a list of them, made in advance: so they can also be executed by
// a process that shares nothing with the Go runtime any more.
type call struct {
	number uintptr
	args   [6]uintptr
	on     reaction
	what   string // for the error
	object string
}

// reaction is what an error of a call means.
type reaction uint8

const (
	fatal   reaction = iota
	ignored          // whatever happens, go on
	early            // done; or without permission, done by a call that is late
	late             // only when no early call was done
	chained          // the first argument is the result of the call before
	sought           // not found, go on with the next call
)

// plan is a list of calls, with the memory that they point to.
type plan struct {
	calls  []call
	memory memory
}

// memory is where the arguments of calls are.
type memory interface {
	// hold copies bytes to where a call finds them.
	hold(b []byte) uintptr
}

// ownMemory is that of this process. Nothing moves or frees it, as the program runs
// without garbage collection.
type ownMemory struct{ kept [][]byte }

func (m *ownMemory) hold(b []byte) uintptr {
	if len(b) == 0 {
		return 0
	}
	m.kept = append(m.kept, append([]byte(nil), b...))
	return uintptr(unsafe.Pointer(&m.kept[len(m.kept)-1][0]))
}

func (p *plan) add(on reaction, what, object string, number uintptr, args ...uintptr) {
	c := call{number: number, on: on, what: what, object: object}
	copy(c.args[:], args)
	p.calls = append(p.calls, c)
}

func (p *plan) cstring(s string) uintptr { return p.memory.hold(append([]byte(s), 0)) }

func (p *plan) cstrings(list []string) uintptr {
	pointers := make([]uintptr, len(list)+1)
	for i, s := range list {
		pointers[i] = p.cstring(s)
	}
	return holdAll(p, pointers)
}

// holdAll holds values without Go pointers.
func holdAll[T any](p *plan, values []T) uintptr {
	if len(values) == 0 {
		return 0
	}
	size := len(values) * int(unsafe.Sizeof(values[0]))
	return p.memory.hold(unsafe.Slice((*byte)(unsafe.Pointer(&values[0])), size))
}

// run executes calls until one fails, and returns which. It uses neither the
// scheduler nor the stack beyond its own frame.
//
//go:nosplit
//go:norace
func run(calls []call) (at int, errno unix.Errno) {
	done, denied, last := false, unix.Errno(0), uintptr(0)
	for i := 0; i < len(calls); i++ {
		c := &calls[i]
		if c.on == late && done {
			continue
		}
		if c.on == chained {
			c.args[0] = last
		}
		result, _, e := unix.RawSyscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		last = result
		switch {
		case e == 0:
			done = done || c.on == early
		case c.on == ignored:
		case c.on == early && (e == unix.EACCES || e == unix.EPERM):
		case c.on == sought && (e == unix.ENOENT || e == unix.ENOTDIR || e == unix.EACCES):
			if e == unix.EACCES {
				denied = e
			}
			if i+1 == len(calls) {
				if denied != 0 {
					e = denied
				}
				return i, e
			}
		default:
			return i, e
		}
	}
	return -1, 0
}

// explain makes the error of a call that failed.
func (p *plan) explain(at int, errno unix.Errno) error {
	c := p.calls[at]
	if c.on == sought && errno == unix.ENOENT {
		return fail(c.what, c.object, text("executable file not found in $PATH"))
	}
	return fail(c.what, c.object, errno)
}

// become turns this process into the container's program.
func become(r *recipe.Recipe) error {
	if err := ownStreams(r); err != nil {
		return err
	}
	p := &plan{memory: &ownMemory{}}
	p.process(r)
	prepared := len(p.calls)
	p.execute(&r.Process)
	at, errno := run(p.calls[:prepared])
	if errno == 0 && r.Hold {
		send(recipe.MessageReady, "")
		if err := await(recipe.MessageStart); err != nil {
			return err
		}
	}
	if errno == 0 {
		at, errno = run(p.calls[prepared:])
		at += prepared
	}
	runtime.KeepAlive(p)
	return p.explain(at, errno)
}

// process adds everything that makes the process what it should be, but what
// the program itself may be the first to feel.
func (p *plan) process(r *recipe.Recipe) {
	p.session(r)
	p.labels(&r.Process)
	p.rights(&r.Process)
}

// session adds what is the process's own and not inherited.
func (p *plan) session(r *recipe.Recipe) {
	if r.Enter {
		p.add(fatal, "begin a session", "", unix.SYS_SETSID)
	}
	if r.Process.Terminal {
		p.add(fatal, "take the terminal over", "", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
}

// labels adds what security modules execute the program as. They go through the
// container's /proc, which shows only processes of its pid namespace.
func (p *plan) labels(proc *recipe.Process) {
	if proc.AppArmor != "" {
		p.label("apply AppArmor profile", "/proc/thread-self/attr/apparmor/exec", proc.AppArmor, "exec "+proc.AppArmor)
	}
	if proc.SELinux != "" {
		p.label("apply SELinux label", "/proc/thread-self/attr/exec", proc.SELinux, proc.SELinux)
	}
}

// rights adds limits, the filter and the identity.
func (p *plan) rights(proc *recipe.Process) {
	for i := range proc.Rlimits {
		l := &proc.Rlimits[i]
		limit := []unix.Rlimit{{Cur: l.Soft, Max: l.Hard}}
		p.add(fatal, "set a resource limit", "", unix.SYS_PRLIMIT64, 0, uintptr(l.Resource), holdAll(p, limit), 0)
	}
	mask := int64(0o022)
	if proc.Umask >= 0 {
		mask = proc.Umask
	}
	p.add(fatal, "set the file mode mask", "", unix.SYS_UMASK, uintptr(mask))
	if !proc.NoNewPrivs {
		p.seccomp(proc) // while the process may
	}
	p.identity(proc)
}

// ownNull is rootDir.ownNull for a process that enters a container.
func (p *plan) ownNull() error {
	for fd := range 3 {
		null, err := isNull(fd)
		if err != nil {
			return err
		}
		if null {
			const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_NOFOLLOW | unix.O_CLOEXEC
			p.add(fatal, "open", "/dev/null", unix.SYS_OPENAT, cwdFD, p.cstring("/dev/null"), flags)
			p.add(chained, "open", "/dev/null", unix.SYS_DUP3, 0, uintptr(fd), 0)
		}
	}
	return nil
}

// label sets what a security module executes the program as.
func (p *plan) label(what, path, name, value string) {
	p.add(fatal, what, name, unix.SYS_OPENAT, cwdFD, p.cstring(path), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	p.add(chained, what, name, unix.SYS_WRITE, 0, p.memory.hold([]byte(value)), uintptr(len(value)))
}

// cwdFD is AT_FDCWD as an argument of a system call.
const cwdFD = ^uintptr(99)

func (p *plan) seccomp(proc *recipe.Process) {
	if len(proc.Seccomp) == 0 {
		return
	}
	// struct sock_fprog: how many instructions, and where.
	prog := []uintptr{uintptr(len(proc.Seccomp) / 8), p.memory.hold(proc.Seccomp)}
	p.add(fatal, "install the system call filter", "", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(proc.SeccompFlags), holdAll(p, prog))
}

const lastCapability = 63

// identity adds user, groups, capabilities and the working directory.
func (p *plan) identity(proc *recipe.Process) {
	c := proc.Caps
	for n := range lastCapability + 1 {
		if c.Bounding&(1<<n) == 0 {
			// EINVAL: a capability that this kernel does not know.
			p.add(ignored, "", "", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(n))
		}
	}
	p.add(fatal, "keep capabilities", "", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1)
	cwd := p.cstring(proc.Cwd)
	p.add(early, "enter working directory", proc.Cwd, unix.SYS_CHDIR, cwd)
	if proc.SetGroups {
		groups := make([]uint32, len(proc.Groups))
		for i, g := range proc.Groups {
			groups[i] = uint32(g)
		}
		p.add(fatal, "set groups", "", unix.SYS_SETGROUPS, uintptr(len(groups)), holdAll(p, groups))
	}
	gid, uid := uintptr(proc.GID), uintptr(proc.UID)
	p.add(fatal, "set group", "", unix.SYS_SETRESGID, gid, gid, gid)
	p.add(fatal, "set user", "", unix.SYS_SETRESUID, uid, uid, uid)
	p.add(late, "enter working directory", proc.Cwd, unix.SYS_CHDIR, cwd)
	p.add(fatal, "keep capabilities", "", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 0)

	header := []unix.CapUserHeader{{Version: unix.LINUX_CAPABILITY_VERSION_3}}
	sets := []unix.CapUserData{
		{Effective: uint32(c.Effective), Permitted: uint32(c.Permitted), Inheritable: uint32(c.Inheritable)},
		{Effective: uint32(c.Effective >> 32), Permitted: uint32(c.Permitted >> 32), Inheritable: uint32(c.Inheritable >> 32)},
	}
	p.add(fatal, "set capabilities", "", unix.SYS_CAPSET, holdAll(p, header), holdAll(p, sets))
	p.add(ignored, "", "", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
	for n := range lastCapability + 1 {
		if c.Ambient&(1<<n) != 0 {
			p.add(fatal, "raise an ambient capability", "", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n), 0, 0)
		}
	}
}

// execute adds the execution, once for every place where the program may be.
// The shim is told before the filter comes, which may forbid it.
func (p *plan) execute(proc *recipe.Process) {
	p.add(ignored, "", "", unix.SYS_WRITE, recipe.ControlFD, p.memory.hold([]byte{recipe.MessageExec}), 1)
	if proc.NoNewPrivs {
		p.add(fatal, "forbid new privileges", "", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		p.seccomp(proc)
	}
	if len(proc.Args) == 0 {
		p.add(fatal, "exec", "", ^uintptr(0))
		return
	}
	args, env := p.cstrings(proc.Args), p.cstrings(proc.Env)
	name := proc.Args[0]
	if strings.Contains(name, "/") {
		p.add(fatal, "exec:", name, unix.SYS_EXECVE, p.cstring(name), args, env)
		return
	}
	path := ""
	for _, kv := range proc.Env {
		if value, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = value
		}
	}
	for _, dir := range strings.Split(path, ":") {
		if dir == "" {
			dir = "."
		}
		p.add(sought, "exec:", name, unix.SYS_EXECVE, p.cstring(dir+"/"+name), args, env)
	}
}
