package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/test/isolation/filter"
)

// evaluate is the meaning of a profile, read entry by entry from the package
// comment, without any of the compiler's data structures.
func evaluate(profile *specs.LinuxSeccomp, abis []abi, e filter.Event) uint32 {
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
		if e.Audit != m.audit || i > 0 && !lists(m.name) {
			continue
		}
		refuses := profile.DefaultAction != specs.ActAllow && profile.DefaultAction != specs.ActLog && profile.DefaultAction != specs.ActTrace
		newest := uint32(0)
		for _, entry := range profile.Syscalls {
			for _, name := range entry.Names {
				if n, ok := m.number(name); ok {
					newest = max(newest, n)
				}
				if m.multiplexed != nil {
					common, _, _ := m.multiplexed(name)
					newest = max(newest, common)
				}
			}
		}
		minusOne := e.Number == 0xffffffff
		switch {
		case m.x32 && minusOne:
			return byDefault
		case m.x32 && e.Number&x32Bit != 0 && lists(specs.ArchX32):
			return noSuchCall
		case m.x32 && e.Number&x32Bit != 0:
			return unix.SECCOMP_RET_KILL_THREAD
		case newest > 0 && e.Number > newest && lists(m.name) && refuses:
			return noSuchCall
		case m.x32 && e.Number >= x32Bit:
			if lists(specs.ArchX32) {
				return noSuchCall
			}
			return unix.SECCOMP_RET_KILL_THREAD
		}
		return evaluateCall(profile, m, byDefault, e)
	}
	return unix.SECCOMP_RET_KILL_THREAD
}

func evaluateCall(profile *specs.LinuxSeccomp, m abi, byDefault uint32, e filter.Event) uint32 {
	var matching []uint32
	for _, entry := range profile.Syscalls {
		act, _ := action(entry.Action, entry.ErrnoRet)
		if act == byDefault {
			continue
		}
		for _, name := range entry.Names {
			number, ok := m.number(name)
			direct := ok && number == e.Number
			common, selector, selects := uint32(0), uint32(0), false
			if m.multiplexed != nil {
				common, selector, selects = m.multiplexed(name)
			}
			selects = selects && common == e.Number
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
func holds(m abi, args []specs.LinuxSeccompArg, e filter.Event, selects bool, selector uint32) (matches, constant bool) {
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
	selected := !selects || e.Args[0] == uint64(selector) || !m.wide && uint32(e.Args[0]) == selector
	if anyOf {
		for _, arg := range args {
			if idle(arg) {
				return selected, !selects
			}
			matches = matches || compares(m, arg, e.Args[arg.Index])
		}
		return matches && selected, false
	}
	matches, constant = selected, !selects
	for _, arg := range args {
		if !idle(arg) {
			constant = false
			matches = matches && compares(m, arg, e.Args[arg.Index])
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
