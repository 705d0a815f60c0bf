package seccomp

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rule is what a profile says about one call: an action if all conditions hold.
type rule struct {
	action     uint32
	conditions []condition // by argument, at most one each
}

// condition compares one argument.
type condition struct {
	index       uint
	op          specs.LinuxSeccompOperator
	value, mask uint64 // mask only for SCMP_CMP_MASKED_EQ
}

// rules are all rules of one call.
type rules struct {
	unconditional *rule // wins when it is there
	conditional   []rule
	otherwise     uint32 // action when none of the conditional ones matches
}

func (r *rules) add(x rule) {
	switch {
	case len(x.conditions) > 0:
		r.conditional = append(r.conditional, x)
	case r.unconditional == nil:
		r.unconditional = &x
	}
}

// calls collects the rules of a profile by call number.
func (m abi) calls(profile *specs.LinuxSeccomp, byDefault uint32) (map[uint32]*rules, error) {
	calls := map[uint32]*rules{}
	add := func(number uint32, r rule) {
		if calls[number] == nil {
			calls[number] = &rules{otherwise: byDefault}
		}
		calls[number].add(r)
	}
	for _, entry := range profile.Syscalls {
		parsed, err := m.parse(entry)
		if err != nil {
			return nil, fmt.Errorf("rule for %v: %w", entry.Names, err)
		}
		for _, name := range entry.Names {
			for _, r := range parsed {
				if r.action == byDefault {
					continue
				}
				if number, ok := m.number(name); ok {
					add(number, r)
				}
				if m.multiplexed == nil {
					continue
				}
				if number, selector, ok := m.multiplexed(name); ok {
					add(number, r.through(selector))
				}
			}
		}
	}
	return calls, nil
}

// through is the rule for the form of a call that takes a selector as its first
// argument. What the call's own arguments are is out of a filter's sight.
func (r rule) through(selector uint32) rule {
	own := slices.DeleteFunc(slices.Clone(r.conditions), func(c condition) bool { return c.index == 0 })
	return rule{action: r.action, conditions: append([]condition{{index: 0, op: specs.OpEqualTo, value: uint64(selector)}}, own...)}
}

// parse checks an entry of a profile and splits it into rules.
func (m abi) parse(entry specs.LinuxSyscall) ([]rule, error) {
	act, err := action(entry.Action, entry.ErrnoRet)
	if err != nil {
		return nil, err
	}
	if slices.Contains(entry.Names, "") {
		return nil, fmt.Errorf("a call has an empty name")
	}
	var conditions []condition
	seen := map[uint]bool{}
	repeated := false
	for _, arg := range entry.Args {
		c, err := m.condition(arg)
		if err != nil {
			return nil, err
		}
		repeated = repeated || seen[c.index]
		seen[c.index] = true
		conditions = append(conditions, c)
	}
	if !repeated {
		return []rule{m.simplify(rule{act, conditions})}, nil
	}
	var split []rule
	for _, c := range conditions {
		split = append(split, m.simplify(rule{act, []condition{c}}))
	}
	return split, nil
}

func (m abi) condition(arg specs.LinuxSeccompArg) (condition, error) {
	c := condition{index: arg.Index, op: arg.Op, value: arg.Value}
	if arg.Index > 5 {
		return c, fmt.Errorf("argument %d: calls have arguments 0 to 5", arg.Index)
	}
	switch arg.Op {
	case specs.OpMaskedEqual:
		c.mask, c.value = arg.Value, arg.ValueTwo&arg.Value
	case specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual:
	default:
		return c, fmt.Errorf("operator %q is unknown", arg.Op)
	}
	if !m.wide {
		c.value, c.mask = uint64(uint32(c.value)), uint64(uint32(c.mask))
	}
	return c, nil
}

// simplify drops conditions that always hold.
func (m abi) simplify(r rule) rule {
	r.conditions = slices.DeleteFunc(slices.Clone(r.conditions), func(c condition) bool {
		return c.op == specs.OpMaskedEqual && c.mask == 0
	})
	return r
}

// span is a range of call numbers from first on, with the same rules.
type span struct {
	first uint32
	rules *rules
}

// always is what a filter returns whatever the arguments are.
func always(action uint32) *rules { return &rules{unconditional: &rule{action: action}} }

// x32Bit marks the call numbers of the x32 ABI.
const x32Bit = 0x40000000

// verdicts divides all call numbers into spans.
func (m abi) verdicts(profile *specs.LinuxSeccomp, calls map[uint32]*rules, byDefault uint32, listed map[specs.Arch]bool) []span {
	rest := always(byDefault)
	spans := []span{{0, rest}}
	put := func(first uint32, r *rules) {
		if last := len(spans) - 1; spans[last].first == first {
			spans = spans[:last]
		}
		if last := len(spans) - 1; last < 0 || !sameAlways(spans[last].rules, r) {
			spans = append(spans, span{first, r})
		}
	}
	for _, number := range slices.Sorted(maps.Keys(calls)) {
		put(number, calls[number])
		put(number+1, rest)
	}
	unknown := rest
	if newest, ok := m.newest(profile); ok && listed[m.name] && answersUnknown(profile) {
		unknown = always(noSuchCall)
		put(newest+1, unknown)
	}
	if m.x32 {
		// Where bit 30 is set it is a call of the x32 ABI, but for -1, with which a
		// tracer skips a call.
		other := always(unix.SECCOMP_RET_KILL_THREAD)
		if listed[specs.ArchX32] {
			other = always(noSuchCall)
		}
		put(x32Bit, other)
		if unknown != rest {
			put(2*x32Bit, unknown)
			put(3*x32Bit, other)
		}
		put(^uint32(0), rest)
	}
	return spans
}

// noSuchCall is what a kernel answers that does not know a call.
const noSuchCall = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)

// answersUnknown says whether calls that are newer than the profile get ENOSYS.
// Under a default action that lets calls happen they are left to the kernel.
func answersUnknown(profile *specs.LinuxSeccomp) bool {
	switch profile.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace:
		return false
	}
	return true
}

// sameAlways compares two sets of rules that do not look at arguments.
func sameAlways(a, b *rules) bool {
	return a.unconditional != nil && b.unconditional != nil && a.unconditional.action == b.unconditional.action
}

// newest is the highest call number that a profile names.
func (m abi) newest(profile *specs.LinuxSeccomp) (highest uint32, ok bool) {
	for _, entry := range profile.Syscalls {
		for _, name := range entry.Names {
			if number, known := m.number(name); known && number > highest {
				highest, ok = number, true
			}
			if m.multiplexed == nil {
				continue
			}
			if number, _, known := m.multiplexed(name); known && number > highest {
				highest, ok = number, true
			}
		}
	}
	return highest, ok
}

// strictness orders actions as the kernel does among stacked filters.
func strictness(action uint32) int32 { return int32(action & unix.SECCOMP_RET_ACTION_FULL) }

// byStrictness puts the rules that win first.
func (r *rules) byStrictness() []rule {
	sorted := slices.Clone(r.conditional)
	slices.SortStableFunc(sorted, func(a, b rule) int { return cmp.Compare(strictness(a.action), strictness(b.action)) })
	return sorted
}
