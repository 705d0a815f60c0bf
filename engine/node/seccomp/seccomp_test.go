package seccomp

import (
	"slices"
	"strings"
	"testing"

	contrib "github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/test/isolation/filter"
)

// defaultProfile is containerd's for a container with the given capabilities.
func defaultProfile(capabilities ...string) *specs.LinuxSeccomp {
	return contrib.DefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capabilities}},
		Linux:   &specs.Linux{},
	})
}

func pointer(n uint) *uint { return &n }

// profiles are those that the compiler is compared on.
func profiles() map[string]*specs.LinuxSeccomp {
	both := []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchAARCH64, specs.ArchARM}
	arg := func(index uint, op specs.LinuxSeccompOperator, value, second uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Op: op, Value: value, ValueTwo: second}
	}
	rule := func(action specs.LinuxSeccompAction, name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: action, Args: args}
	}
	all := map[string]*specs.LinuxSeccomp{
		"default":      defaultProfile("CAP_CHOWN", "CAP_SYS_CHROOT"),
		"no caps":      defaultProfile(),
		"admin":        defaultProfile("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_SYS_TIME", "CAP_BPF"),
		"allow all":    {DefaultAction: specs.ActAllow},
		"no rules":     {DefaultAction: specs.ActErrno, Architectures: both},
		"kill process": {DefaultAction: specs.ActKillProcess, Architectures: both, Syscalls: []specs.LinuxSyscall{rule(specs.ActAllow, "read")}},
		"deny list": {DefaultAction: specs.ActAllow, Architectures: both, Syscalls: []specs.LinuxSyscall{
			rule(specs.ActErrno, "mkdir"), rule(specs.ActKill, "ptrace"), rule(specs.ActTrap, "chroot"), rule(specs.ActLog, "getpid"), rule(specs.ActTrace, "getuid"),
			rule(specs.ActErrno, "socket", arg(0, specs.OpEqualTo, unix.AF_VSOCK, 0)),
			rule(specs.ActErrno, "sendto", arg(3, specs.OpMaskedEqual, 1, 1), arg(0, specs.OpGreaterThan, 2, 0)),
			rule(specs.ActErrno, "semctl", arg(2, specs.OpEqualTo, 7, 0)),
		}},
		"native only": {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{rule(specs.ActAllow, "read"), rule(specs.ActAllow, "write")}},
		"errnoRet": {DefaultAction: specs.ActErrno, DefaultErrnoRet: pointer(38), Architectures: both, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"open", "openat", "no_such_call"}, Action: specs.ActErrno, ErrnoRet: pointer(13)}, rule(specs.ActAllow, "read"),
			{Names: []string{"close"}, Action: specs.ActErrno, ErrnoRet: pointer(38)}, {Names: []string{"getuid"}, Action: specs.ActTrace, ErrnoRet: pointer(77)},
		}},
		"same argument twice": {DefaultAction: specs.ActErrno, Architectures: both, Syscalls: []specs.LinuxSyscall{
			rule(specs.ActAllow, "ioctl", arg(1, specs.OpGreaterThan, 10, 0), arg(1, specs.OpLessThan, 5, 0), arg(2, specs.OpEqualTo, 9, 0)),
		}},
		"unconditional wins": {DefaultAction: specs.ActErrno, Architectures: both, Syscalls: []specs.LinuxSyscall{
			rule(specs.ActKill, "ioctl", arg(1, specs.OpEqualTo, 10, 0)), rule(specs.ActAllow, "ioctl"), rule(specs.ActTrap, "ioctl"),
			rule(specs.ActLog, "read", arg(0, specs.OpMaskedEqual, 0, 5)),
		}},
	}
	wide := uint64(0x1_0000_0005)
	for _, op := range []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual} {
		all[string(op)] = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: both, Syscalls: []specs.LinuxSyscall{
			rule(specs.ActAllow, "read", arg(2, op, wide, 0x1_0000_0001)),
			rule(specs.ActAllow, "write", arg(0, op, 5, 4), arg(1, op, wide, 1)),
			rule(specs.ActAllow, "kill", arg(5, op, 1<<63, 1<<63)),
			rule(specs.ActAllow, "getpid", arg(0, op, 0xffffffff, 0xff)),
			rule(specs.ActAllow, "getppid", arg(0, op, 1<<64-1, 1<<32)),
		}}
	}
	return all
}

// interesting are the values that arguments are given: those that a profile
// compares with, and their neighbours.
func interesting(profile *specs.LinuxSeccomp) []uint64 {
	values := []uint64{0, 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<64 - 1}
	for _, entry := range profile.Syscalls {
		for _, arg := range entry.Args {
			for _, v := range []uint64{arg.Value, arg.ValueTwo, arg.Value &^ arg.ValueTwo} {
				values = append(values, v-1, v, v+1, v^1<<32, v|1<<63, v<<32)
			}
		}
	}
	slices.Sort(values)
	return slices.Compact(values)
}

// numbers are the call numbers to try: all that exist and the borders of the rest.
func numbers() []uint32 {
	var all []uint32
	for n := range uint32(600) {
		all = append(all, n)
	}
	for _, n := range []uint32{0x0f0000, x32Bit, 1 << 31, 3 << 30, 0} {
		for d := range uint32(10) {
			all = append(all, n+d-3, n+d+400)
		}
	}
	return append(all, 1<<32-1)
}

// forEachEvent calls f for all numbers, architectures and argument values that matter.
func forEachEvent(profile *specs.LinuxSeccomp, abis []abi, f func(filter.Event)) {
	values := interesting(profile)
	audits := []uint32{unix.AUDIT_ARCH_MIPS, 0}
	conditional := map[filter.Event]bool{}
	for _, m := range abis {
		audits = append(audits, m.audit)
		for _, entry := range profile.Syscalls {
			for _, name := range entry.Names {
				if n, ok := m.number(name); ok && len(entry.Args) > 0 {
					conditional[filter.Event{Number: n, Audit: m.audit}] = true
				}
				if m.multiplexed != nil {
					if n, _, ok := m.multiplexed(name); ok {
						conditional[filter.Event{Number: n, Audit: m.audit}] = true
					}
				}
			}
		}
	}
	for _, audit := range audits {
		for _, n := range numbers() {
			e := filter.Event{Number: n, Audit: audit}
			f(e)
			if !conditional[e] {
				continue
			}
			for selector := range uint64(30) { // of socketcall and ipc
				x := e
				x.Args[0] = selector
				f(x)
			}
			for a := range e.Args {
				for _, v := range values {
					for _, b := range []int{0, 1, 3} {
						for _, w := range []uint64{0, 1, 3, 5, 11, 1 << 32} {
							x := e
							x.Args[b], x.Args[a] = w, v
							f(x)
						}
					}
				}
			}
		}
	}
}

// A filter says for every call what the profile means.
func TestFiltersMeanWhatTheProfileSays(t *testing.T) {
	for _, goarch := range []string{"amd64", "arm64"} {
		abis, err := machine(goarch)
		if err != nil {
			t.Fatal(err)
		}
		for name, profile := range profiles() {
			t.Run(goarch+" "+name, func(t *testing.T) {
				program, err := compile(profile, abis)
				if err != nil {
					t.Fatal(err)
				}
				checkProgram(t, program)
				forEachEvent(profile, abis, func(e filter.Event) {
					got, err := filter.Run(program.Filter, e)
					if want := evaluate(profile, abis, e); err != nil || got != want {
						t.Fatalf("%v: %#x (%v), want %#x", e, got, err, want)
					}
				})
			})
		}
	}
}

// checkProgram has the kernel's rules for a filter.
func checkProgram(t testing.TB, p *Program) {
	t.Helper()
	if n := len(p.Filter); n == 0 || n > maxInstructions {
		t.Fatalf("%d instructions", n)
	}
	for pc, i := range p.Filter {
		furthest := pc
		switch i.Code & 7 {
		case unix.BPF_JMP:
			furthest += 1 + max(int(i.Jt), int(i.Jf))
			if i.Code == unix.BPF_JMP|unix.BPF_JA {
				furthest = pc + 1 + int(i.K)
			}
		}
		if furthest >= len(p.Filter) {
			t.Fatalf("instruction %d jumps behind the end", pc)
		}
	}
	if last := p.Filter[len(p.Filter)-1]; last.Code != unix.BPF_RET|unix.BPF_K {
		t.Fatalf("the last instruction is %#x", last.Code)
	}
}

func TestTheDefaultFilterIsShort(t *testing.T) {
	program, err := Compile(defaultProfile("CAP_SYS_CHROOT"))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(program.Filter); n > 300 {
		t.Errorf("%d instructions for two architectures", n)
	}
}

func TestRefusalsNameTheCause(t *testing.T) {
	rule := func(change func(*specs.LinuxSyscall)) *specs.LinuxSeccomp {
		s := specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow}
		change(&s)
		return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{s}}
	}
	for want, profile := range map[string]*specs.LinuxSeccomp{
		"there is none":           nil,
		"defaultAction: none":     {},
		`action "SCMP_ACT_X"`:     {DefaultAction: "SCMP_ACT_X"},
		"notification agent":      {DefaultAction: specs.ActNotify},
		"listenerPath":            {DefaultAction: specs.ActAllow, ListenerPath: "/run/agent"},
		`architecture "x86"`:      {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"x86"}},
		`flag "X"`:                {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}},
		"errnoRet 65536":          {DefaultAction: specs.ActErrno, DefaultErrnoRet: pointer(65536)},
		"argument 6":              rule(func(s *specs.LinuxSyscall) { s.Args = []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}} }),
		`operator "SCMP_CMP_LIKE`: rule(func(s *specs.LinuxSyscall) { s.Args = []specs.LinuxSeccompArg{{Op: "SCMP_CMP_LIKE"}} }),
		"empty name":              rule(func(s *specs.LinuxSyscall) { s.Names = []string{""} }),
		"use another action":      rule(func(s *specs.LinuxSyscall) { s.Action = specs.ActNotify }),
	} {
		if _, err := Compile(profile); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
}

func TestFlags(t *testing.T) {
	program, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
		Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, "SECCOMP_FILTER_FLAG_TSYNC"}})
	if err != nil {
		t.Fatal(err)
	}
	if program.Flags != unix.SECCOMP_FILTER_FLAG_LOG|unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW|unix.SECCOMP_FILTER_FLAG_TSYNC {
		t.Errorf("flags %#x", program.Flags)
	}
}

func BenchmarkCompileDefaultProfile(b *testing.B) {
	profile := defaultProfile("CAP_SYS_CHROOT")
	var program *Program
	for b.Loop() {
		var err error
		if program, err = Compile(profile); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(program.Filter)), "instructions")
}
