package initd

import (
	"slices"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// Layout of a flat recipe, which flat_amd64.s reads.
const (
	flatBase = 0x10000000 // where the program maps it
	flatSize = 1 << 20    // at most
	flatData = 512        // where the data begin, and behind them the steps; before are the results
	flatStep = 96         // size of a step

	flatStepsAt   = 432 // holds the address of the steps
	flatMessageAt = 440 // MessageError with FlatFailure and sixteen digits
)

// FlatFailure begins what the flat init says when it gives up: the step, and the error.
// Nothing of the container has run then.
const FlatFailure = "flat init: "

// step is a system call, and what comes after it.
type step struct {
	number uint64    // notACall compares
	args   [6]uint64 // of a comparison: address of 32 bits, mask, what they should be
	refs   [8]byte   // for each of the first three arguments the result to use instead, or 0
	result uint64    // where the result goes
	errors [2]struct {
		number, skip uint32 // after this error, as many steps are passed over
	}
	goOn uint32 // after other errors, too; otherwise the init gives up
	skip uint32 // as many steps are passed over when all went well
}

const notACall = ^uint64(0)

// Results of steps by their places. The first is of whatever needs none.
const (
	anyResult = iota
	treeResult
	targetResult
	firstParent
	secondParent
	nullResult
	emptyResult
	devResult
	cwdResult
	readResult
	contextResult
)

// flat makes steps. Their arguments are in the same file.
type flat struct {
	steps []step
	data  []byte
	root  int                  // descriptor of the container's root
	info  uintptr              // for results of fstat(2) and statfs(2)
	texts map[string]uint64    // strings that are there
	how   map[[2]uint64]uint64 // and struct open_how, by flags and resolve
}

// scratch keeps the memory in which recipes are made: one takes some hundred kilobytes.
var scratch = sync.Pool{New: func() any {
	return &flat{texts: map[string]uint64{}, how: map[[2]uint64]uint64{}, steps: make([]step, 0, 1024), data: make([]byte, 0, 32<<10)}
}}

// hold implements memory.
func (f *flat) hold(b []byte) uintptr {
	if len(b) == 0 {
		return 0
	}
	f.data = append(f.data, make([]byte, -len(f.data)&7)...)
	at := len(f.data)
	f.data = append(f.data, b...)
	return flatBase + flatData + uintptr(at)
}

// Flat is a recipe for [FlatProgram], if the recipe needs nothing that must be decided
// on the way. Directories says which of the recipe's files are directories; home is what
// the environment lacks, or "".
func Flat(r *recipe.Recipe, directories []bool, home string) ([]byte, bool) {
	if r.Enter || r.SecondStage != 0 || r.Hold || r.Process.Terminal || r.Process.AppArmor != "" || r.Process.SELinux != "" || len(r.Process.Args) == 0 {
		return nil, false
	}
	f := scratch.Get().(*flat)
	defer scratch.Put(f)
	f.root, f.steps, f.data = descriptor(r.RootFile), f.steps[:0], f.data[:0]
	clear(f.texts)
	clear(f.how)
	f.info = f.hold(make([]byte, max(unsafe.Sizeof(unix.Stat_t{}), unsafe.Sizeof(unix.Statfs_t{}))))
	f.begin(r)
	for i := range r.Mounts {
		if !f.mount(&r.Mounts[i], directories) {
			return nil, false
		}
	}
	if !f.devices(r) {
		return nil, false
	}
	f.ownNull()
	for _, s := range r.Sysctls {
		f.sysctl(s)
	}
	f.protect(r)
	f.make(r.Process.Cwd, true, cwdResult)
	f.enter(r)
	if !f.become(r, home) {
		return nil, false
	}
	return f.file()
}

// file is the recipe as the program reads it.
func (f *flat) file() ([]byte, bool) {
	size := (flatData+len(f.data)+7)&^7 + len(f.steps)*flatStep
	if size > flatSize {
		return nil, false
	}
	out := make([]byte, size)
	copy(out[flatData:], f.data)
	steps := unsafe.Slice((*byte)(unsafe.Pointer(&f.steps[0])), len(f.steps)*flatStep)
	copy(out[size-len(steps):], steps)
	*(*uint64)(unsafe.Pointer(&out[flatStepsAt])) = uint64(flatBase + size - len(steps))
	out[flatMessageAt] = recipe.MessageError
	copy(out[flatMessageAt+1:], FlatFailure)
	return out, true
}

// call adds a step.
func (f *flat) call(number uintptr, args ...uint64) *step {
	s := step{number: uint64(number)}
	copy(s.args[:], args)
	f.steps = append(f.steps, s)
	return &f.steps[len(f.steps)-1]
}

// handle is a descriptor that is known, or the result of an earlier step.
type handle struct {
	known  int
	result byte
}

func result(of byte) handle { return handle{result: of} }

// use has an argument be a descriptor.
func (s *step) use(arg int, h handle) *step {
	s.args[arg], s.refs[arg] = uint64(h.known), h.result
	return s
}

func (s *step) into(result byte) *step {
	s.result = uint64(result)
	return s
}

// or passes over steps after an error.
func (s *step) or(errno unix.Errno, skip int) *step {
	i := 0
	if s.errors[0].number != 0 {
		i = 1
	}
	s.errors[i].number, s.errors[i].skip = uint32(errno), uint32(skip)
	return s
}

// compare is a step that fails with EPERM when a number at an address, of which the mask's bits
// count, is another one.
func (f *flat) compare(at uintptr, mask, want uint32) *step {
	return f.call(uintptr(notACall), uint64(at), uint64(mask), uint64(want))
}

// resultAt is the address of a result.
func resultAt(result uintptr) uintptr { return flatBase + 8*result }

// giveUp is a step that always fails.
func (f *flat) giveUp() { f.compare(f.info, 0, 1) }

// text is the address of a string.
func (f *flat) text(s string) uint64 {
	at, known := f.texts[s]
	if !known {
		at = uint64(f.hold(append([]byte(s), 0)))
		f.texts[s] = at
	}
	return at
}

func (f *flat) words(w ...uint64) uint64 {
	return uint64(f.hold(unsafe.Slice((*byte)(unsafe.Pointer(&w[0])), 8*len(w))))
}

// open opens a path inside the root, as rootDir.open does.
func (f *flat) open(path string, flags, resolve uint64, into byte) *step {
	key := [2]uint64{flags | unix.O_CLOEXEC, resolve | unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	how, known := f.how[key]
	if !known {
		how = f.words(key[0], 0, key[1])
		f.how[key] = how
	}
	return f.call(unix.SYS_OPENAT2, uint64(f.root), f.text(path), how, uint64(unsafe.Sizeof(unix.OpenHow{}))).into(into)
}

// make is rootDir.make. A link to something missing it does not follow.
func (f *flat) make(path string, directory bool, into byte) {
	first := len(f.steps)
	f.open(path, unix.O_PATH, 0, into).or(unix.ENOENT, 0)
	f.open("/", unix.O_PATH, 0, firstParent)
	names := parts(path)
	parent, next := byte(firstParent), byte(secondParent)
	for i, name := range names {
		last := i == len(names)-1
		if last {
			next = into
		}
		found := len(f.steps)
		f.open("/"+strings.Join(names[:i+1], "/"), unix.O_PATH, 0, next).or(unix.ENOENT, 0)
		if directory || !last {
			f.call(unix.SYS_MKDIRAT, 0, f.text(name), 0o755).use(0, result(parent))
		} else {
			f.call(unix.SYS_OPENAT, 0, f.text(name), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644).use(0, result(parent))
		}
		f.call(unix.SYS_OPENAT, 0, f.text(name), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0).use(0, result(parent)).into(next)
		f.steps[found].skip = uint32(len(f.steps) - found - 1)
		parent, next = next, parent
	}
	if len(names) == 0 {
		f.open("/", unix.O_PATH, 0, into)
	}
	f.steps[first].skip = uint32(len(f.steps) - first - 1)
}

// attr is a struct mount_attr.
func (f *flat) attr(set, clear, propagation uint64) uint64 {
	return f.words(set, clear, propagation, 0)
}

func (f *flat) setattr(of handle, flags uint64, attr uint64) {
	f.call(unix.SYS_MOUNT_SETATTR, 0, f.text(""), flags|unix.AT_EMPTY_PATH, attr, uint64(unsafe.Sizeof(unix.MountAttr{}))).use(0, of)
}

// place moves a tree to the target.
func (f *flat) place(tree handle) {
	const both = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	f.call(unix.SYS_MOVE_MOUNT, 0, f.text(""), 0, f.text(""), both).use(0, tree).use(2, result(targetResult))
}

// cloneOf makes the tree a further mount of what is open.
func (f *flat) cloneOf(of byte, recursive uint64) *step {
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH
	return f.call(unix.SYS_OPEN_TREE, 0, f.text(""), flags|recursive).use(0, result(of)).into(treeResult)
}

// isEmulated says whether a target may be inside /proc.
func isEmulated(target string) bool { return slices.Contains(emulated[:], target) }
