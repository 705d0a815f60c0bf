package seccomp

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// event is one call as a filter sees it: struct seccomp_data without the
// instruction pointer.
type event struct {
	number, audit uint32
	args          [6]uint64
}

func (e event) String() string {
	return fmt.Sprintf("call %d (%#x) of architecture %#x with %#x", e.number, e.number, e.audit, e.args)
}

func (e event) word(offset uint32) (uint32, error) {
	switch {
	case offset == offsetNumber:
		return e.number, nil
	case offset == offsetArch:
		return e.audit, nil
	case offset >= offsetArguments && offset < offsetArguments+48 && offset%4 == 0:
		return uint32(e.args[(offset-offsetArguments)/8] >> (offset % 8 * 8)), nil
	}
	return 0, fmt.Errorf("load of offset %d", offset)
}

// run interprets a filter as the kernel does, and refuses what it would refuse.
func run(filter []unix.SockFilter, e event) (uint32, error) {
	var acc uint32
	for pc := 0; pc < len(filter); pc++ {
		i := filter[pc]
		holds := false
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			var err error
			if acc, err = e.word(i.K); err != nil {
				return 0, err
			}
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= i.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return i.K, nil
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			holds = acc == i.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			holds = acc >= i.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			holds = acc > i.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			holds = acc&i.K != 0
		default:
			return 0, fmt.Errorf("instruction %d has the unexpected code %#x", pc, i.Code)
		}
		if holds {
			pc += int(i.Jt)
		} else {
			pc += int(i.Jf)
		}
	}
	return 0, fmt.Errorf("the filter ends without a return")
}

// evaluate is the meaning of a profile, read entry by entry from the package
// comment, without any of the compiler's data structures.
func evaluate(profile *specs.LinuxSeccomp, abis []abi, e event) uint32 {
	byDefault, _ := action(profile.DefaultAction, profile.DefaultErrnoRet)
	lists := func(name specs.Arch) bool {
		for _, a := range profile.Architectures {
			if a == name {
				return true
			}
		}
		return false
	}
	for i, m := range abis {
		if e.audit != m.audit || i > 0 && !lists(m.name) {
			continue
		}
		refuses := profile.DefaultAction != specs.ActAllow && profile.DefaultAction != specs.ActLog && profile.DefaultAction != specs.ActTrace &&
			(profile.DefaultErrnoRet == nil || *profile.DefaultErrnoRet != 38)
		newest := uint32(0)
		for _, entry := range profile.Syscalls {
			for _, name := range entry.Names {
				if n, ok := m.number(name); ok {
					newest = max(newest, n)
				}
			}
		}
		minusOne := e.number == 0xffffffff
		switch {
		case m.x32 && minusOne:
			return byDefault
		case m.x32 && e.number&x32Bit != 0 && lists(specs.ArchX32):
			return noSuchCall
		case m.x32 && e.number&x32Bit != 0:
			return unix.SECCOMP_RET_KILL_THREAD
		case newest > 0 && e.number > newest && lists(m.name) && refuses:
			return noSuchCall
		case m.x32 && e.number >= x32Bit:
			if lists(specs.ArchX32) {
				return noSuchCall
			}
			return unix.SECCOMP_RET_KILL_THREAD
		}
		return evaluateCall(profile, m, byDefault, e)
	}
	return unix.SECCOMP_RET_KILL_THREAD
}

func evaluateCall(profile *specs.LinuxSeccomp, m abi, byDefault uint32, e event) uint32 {
	var matching []uint32
	for _, entry := range profile.Syscalls {
		act, _ := action(entry.Action, entry.ErrnoRet)
		if act == byDefault {
			continue
		}
		for _, name := range entry.Names {
			number, ok := m.number(name)
			direct := ok && number == e.number
			common, selector, selects := uint32(0), uint32(0), false
			if m.multiplexed != nil {
				common, selector, selects = m.multiplexed(name)
			}
			selects = selects && common == e.number
			if !direct && !selects {
				continue
			}
			matches, constant := holds(m, entry.Args, e, selects, selector)
			if constant {
				return act
			}
			if matches {
				matching = append(matching, act)
			}
		}
	}
	if len(matching) == 0 {
		return byDefault
	}
	strictest := matching[0]
	for _, act := range matching {
		if int32(act&unix.SECCOMP_RET_ACTION_FULL) < int32(strictest&unix.SECCOMP_RET_ACTION_FULL) {
			strictest = act
		}
	}
	return strictest
}

// holds evaluates an entry's conditions. Constant means that it has none that can fail.
func holds(m abi, args []specs.LinuxSeccompArg, e event, selects bool, selector uint32) (matches, constant bool) {
	repeated := map[uint]int{}
	for _, arg := range args {
		repeated[arg.Index]++
	}
	anyOf := false
	for _, n := range repeated {
		anyOf = anyOf || n > 1
	}
	idle := func(a specs.LinuxSeccompArg) bool {
		return selects && a.Index == 0 || a.Op == specs.OpMaskedEqual && (a.Value == 0 || !m.wide && uint32(a.Value) == 0)
	}
	selected := !selects || e.args[0] == uint64(selector) || !m.wide && uint32(e.args[0]) == selector
	if anyOf {
		for _, arg := range args {
			if idle(arg) {
				return selected, !selects
			}
			matches = matches || compares(m, arg, e.args[arg.Index])
		}
		return matches && selected, false
	}
	matches, constant = selected, !selects
	for _, arg := range args {
		if !idle(arg) {
			constant = false
			matches = matches && compares(m, arg, e.args[arg.Index])
		}
	}
	return matches, constant
}

func compares(m abi, arg specs.LinuxSeccompArg, value uint64) bool {
	want, second := arg.Value, arg.ValueTwo
	if !m.wide {
		want, second, value = uint64(uint32(want)), uint64(uint32(second)), uint64(uint32(value))
	}
	switch arg.Op {
	case specs.OpEqualTo:
		return value == want
	case specs.OpNotEqual:
		return value != want
	case specs.OpLessThan:
		return value < want
	case specs.OpLessEqual:
		return value <= want
	case specs.OpGreaterThan:
		return value > want
	case specs.OpGreaterEqual:
		return value >= want
	}
	return value&want == second&want
}
