package seccomp

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data. Both machines here are little-endian.
const (
	offsetNumber    = 0
	offsetArch      = 4
	offsetArguments = 16
)

func lowOffset(argument uint) uint32  { return offsetArguments + 8*uint32(argument) }
func highOffset(argument uint) uint32 { return lowOffset(argument) + 4 }

// label is the place of an instruction, counted from the program's end.
type label int

// assembler writes a program from its end to its beginning, because jumps only go
// forward: whatever one jumps to is already there.
type assembler struct {
	code    []unix.SockFilter // last instruction first
	returns map[uint32]label  // nearest return of a value
}

// program returns the instructions in their order.
func (a *assembler) program() []unix.SockFilter {
	ordered := slices.Clone(a.code)
	slices.Reverse(ordered)
	return ordered
}

func (a *assembler) emit(i unix.SockFilter) label {
	a.code = append(a.code, i)
	return label(len(a.code) - 1)
}

// ret returns the place of an instruction that ends the filter.
func (a *assembler) ret(value uint32) label {
	if l, ok := a.returns[value]; ok && a.near(l) {
		return l
	}
	if a.returns == nil {
		a.returns = map[uint32]label{}
	}
	a.returns[value] = a.emit(unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value})
	return a.returns[value]
}

// near says whether a conditional jump reaches a place, even when a trampoline
// for its other branch lies between.
func (a *assembler) near(l label) bool { return len(a.code)-int(l) <= 254 }

// reach returns a place from which l is reached and which a conditional jump reaches.
func (a *assembler) reach(l label) label {
	if a.near(l) {
		return l
	}
	if target := a.code[l]; target.Code == unix.BPF_RET|unix.BPF_K {
		return a.ret(target.K)
	}
	return a.emit(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(a.code) - int(l) - 1)})
}

// jump goes to yes or to no by comparing the accumulator.
func (a *assembler) jump(comparison uint16, k uint32, yes, no label) label {
	if yes == no {
		return yes
	}
	yes = a.reach(yes)
	no = a.reach(no)
	here := len(a.code)
	return a.emit(unix.SockFilter{
		Code: unix.BPF_JMP | unix.BPF_K | comparison,
		K:    k,
		Jt:   uint8(here - int(yes) - 1),
		Jf:   uint8(here - int(no) - 1),
	})
}

// follow makes the next instruction that is emitted continue at l.
func (a *assembler) follow(l label) {
	if here := len(a.code); int(l) != here-1 {
		a.emit(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(here - int(l) - 1)})
	}
}

// load reads a word of the call's data and goes on at next.
func (a *assembler) load(offset uint32, next label) label {
	a.follow(next)
	return a.emit(unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

// and masks the accumulator and goes on at next.
func (a *assembler) and(mask uint32, next label) label {
	a.follow(next)
	return a.emit(unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask})
}

// part is a range of accumulator values, from first to the next part.
type part struct {
	first uint32
	to    label
}

// search jumps to the part that holds the accumulator. The first part begins at 0.
func (a *assembler) search(parts []part) label {
	if len(parts) == 1 {
		return parts[0].to
	}
	// A single value between two equal ranges needs one comparison, not two.
	if len(parts) == 3 && parts[0].to == parts[2].to && parts[1].first+1 == parts[2].first {
		return a.jump(unix.BPF_JEQ, parts[1].first, parts[1].to, parts[0].to)
	}
	middle := len(parts) / 2
	above := a.search(parts[middle:])
	below := a.search(parts[:middle])
	return a.jump(unix.BPF_JGE, parts[middle].first, above, below)
}
