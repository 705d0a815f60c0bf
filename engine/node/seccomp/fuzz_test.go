package seccomp

import (
	"encoding/binary"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantryhq/gantry/test/isolation/filter"
)

// dice turns the fuzzer's bytes into choices.
type dice struct{ bytes []byte }

func (d *dice) byte() byte {
	if len(d.bytes) == 0 {
		return 0
	}
	b := d.bytes[0]
	d.bytes = d.bytes[1:]
	return b
}

// number prefers values at the borders of words.
func (d *dice) number() uint64 {
	base := []uint64{0, 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<63 - 1, 1 << 63, 1<<64 - 1}
	b := d.byte()
	if b < 128 {
		return base[b%8] + uint64(d.byte()) - 2
	}
	var raw [8]byte
	for i := range raw {
		raw[i] = d.byte()
	}
	return binary.LittleEndian.Uint64(raw[:])
}

func pick[T any](d *dice, from ...T) T { return from[int(d.byte())%len(from)] }

func (d *dice) action() (specs.LinuxSeccompAction, *uint) {
	action := pick(d, specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActTrace, specs.ActLog)
	switch b := d.byte(); {
	case b < 40:
		return action, pointer(38)
	case b < 80:
		return action, pointer(uint(b))
	}
	return action, nil
}

func (d *dice) profile() *specs.LinuxSeccomp {
	p := &specs.LinuxSeccomp{}
	p.DefaultAction, p.DefaultErrnoRet = d.action()
	for _, arch := range []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM} {
		if d.byte() < 160 {
			p.Architectures = append(p.Architectures, arch)
		}
	}
	for len(d.bytes) > 0 && len(p.Syscalls) < 30 {
		var s specs.LinuxSyscall
		s.Action, s.ErrnoRet = d.action()
		for range d.byte()%3 + 1 {
			s.Names = append(s.Names, pick(d, "read", "write", "open", "close", "stat", "fstat", "lstat", "poll", "socket", "bind", "sendto", "accept",
				"semop", "semctl", "shmat", "socketcall", "ipc", "clone", "ioctl", "exit_group", "futex", "no_such_call", "openat2", "restart_syscall"))
		}
		for range d.byte() % 4 {
			s.Args = append(s.Args, specs.LinuxSeccompArg{Index: uint(d.byte() % 6), Value: d.number(), ValueTwo: d.number(),
				Op: pick(d, specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual)})
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}

// event is a call that some rule of the profile may be about.
func (d *dice) event(p *specs.LinuxSeccomp, abis []abi, values []uint64) filter.Event {
	m := pick(d, abis...)
	e := filter.Event{Audit: m.audit, Number: uint32(d.number())}
	if b := d.byte(); len(p.Syscalls) > 0 && b < 240 {
		names := pick(d, p.Syscalls...).Names
		name := pick(d, names...)
		e.Number, _ = m.number(name)
		if m.multiplexed != nil && b < 80 {
			common, selector, _ := m.multiplexed(name)
			e.Number, e.Args[0] = common, uint64(selector)
		}
	}
	for i := range e.Args {
		if b := d.byte(); b < 200 && e.Args[i] == 0 {
			e.Args[i] = values[(int(b)*7+int(d.byte()))%len(values)]
		}
	}
	return e
}

// Whatever a profile says, its filter is valid and means it.
func FuzzFilterMeansProfile(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add([]byte("\x01\xff\x00\x00\x00\x00\x00\x00\x50\x01\x08\x03\x01\x05\x00\x02\x03\x80"), []byte("\x00\x10\x20\x30\x40\x50"))
	f.Fuzz(func(t *testing.T, rules, calls []byte) {
		d := &dice{rules}
		profile := d.profile()
		values := interesting(profile)
		for _, goarch := range []string{"amd64", "arm64"} {
			abis, _ := machine(goarch)
			program, err := compile(profile, abis)
			if err != nil {
				t.Fatal(err)
			}
			checkProgram(t, program)
			d := &dice{calls}
			for range 200 {
				e := d.event(profile, abis, values)
				got, err := filter.Run(program.Filter, e)
				if want := evaluate(profile, abis, e); err != nil || got != want {
					t.Fatalf("%v: %#x (%v), want %#x\n%+v", e, got, err, want, profile)
				}
				if len(d.bytes) == 0 {
					break
				}
			}
		}
	})
}
