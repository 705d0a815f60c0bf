package seccomp

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Program is what seccomp(SECCOMP_SET_MODE_FILTER) takes.
type Program struct {
	Filter []unix.SockFilter
	Flags  uint // SECCOMP_FILTER_FLAG_*
}

// maxInstructions is the kernel's BPF_MAXINSNS.
const maxInstructions = 4096

// Compile translates a profile for the machine that this process runs on. It
// refuses what it cannot enforce exactly, and never installs less.
func Compile(profile *specs.LinuxSeccomp) (*Program, error) {
	abis, err := machine(runtime.GOARCH)
	if err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	program, err := compile(profile, abis)
	if err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	return program, nil
}

// compile translates a profile for a machine whose native ABI is the first.
func compile(profile *specs.LinuxSeccomp, abis []abi) (*Program, error) {
	if profile == nil {
		return nil, errors.New("there is none")
	}
	if profile.ListenerPath != "" {
		return nil, errors.New("listenerPath asks for a notification agent, which containers here have not: remove it")
	}
	flags, err := filterFlags(profile.Flags)
	if err != nil {
		return nil, err
	}
	byDefault, err := action(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("defaultAction: %w", err)
	}
	listed, err := listedArchitectures(profile.Architectures)
	if err != nil {
		return nil, err
	}
	a := &assembler{}
	next := a.ret(unix.SECCOMP_RET_KILL_THREAD) // a foreign architecture
	for i := len(abis) - 1; i >= 0; i-- {
		m := abis[i]
		if i > 0 && !listed[m.name] {
			continue // always there is only the native one
		}
		calls, err := m.calls(profile, byDefault)
		if err != nil {
			return nil, err
		}
		verdicts := m.verdicts(profile, calls, byDefault, listed)
		next = a.section(m, verdicts, next)
	}
	a.load(offsetArch, next)
	if len(a.code) > maxInstructions {
		return nil, fmt.Errorf("it needs %d instructions and the kernel takes %d: use fewer conditions", len(a.code), maxInstructions)
	}
	return &Program{Filter: a.program(), Flags: flags}, nil
}

func filterFlags(names []specs.LinuxSeccompFlag) (uint, error) {
	var flags uint
	for _, name := range names {
		switch name {
		case "SECCOMP_FILTER_FLAG_TSYNC":
			flags |= unix.SECCOMP_FILTER_FLAG_TSYNC
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		default:
			return 0, fmt.Errorf("flag %q: known are SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_FILTER_FLAG_LOG and SECCOMP_FILTER_FLAG_SPEC_ALLOW", name)
		}
	}
	return flags, nil
}

// action translates an action to the value that a filter returns.
func action(name specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		if *errno > unix.SECCOMP_RET_DATA {
			return 0, fmt.Errorf("errnoRet %d: at most %d fits", *errno, unix.SECCOMP_RET_DATA)
		}
		data = uint32(*errno)
	}
	switch name {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return 0, errors.New("SCMP_ACT_NOTIFY needs a notification agent, which containers here have not: use another action")
	case "":
		return 0, errors.New("none is named: SCMP_ACT_ERRNO is usual")
	}
	return 0, fmt.Errorf("action %q is unknown", name)
}
