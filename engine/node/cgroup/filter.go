package cgroup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// instruction is one of the kernel's extended BPF.
type instruction struct {
	op        uint8
	registers uint8 // source << 4 | destination
	offset    int16
	immediate int32
}

// Operations and offsets that the device program needs, of linux/bpf.h.
const (
	opLoadWord  = unix.BPF_LDX | unix.BPF_W | unix.BPF_MEM
	opMove      = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
	opMoveReg   = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
	opAnd       = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opShift     = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	opJumpNot   = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K
	opJumpOther = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_X
	opExit      = unix.BPF_JMP | unix.BPF_EXIT
)

// deviceProgram is what decides on cgroup v2 whether a device may be used. The
// last rule that fits counts, so they are asked from the end.
func deviceProgram(rules []specs.LinuxDeviceCgroup) ([]instruction, error) {
	// The context is three words: access<<16|type, major, minor.
	program := []instruction{
		{op: opLoadWord, registers: 1<<4 | 2, offset: 0},
		{op: opAnd, registers: 2, immediate: 0xffff},
		{op: opLoadWord, registers: 1<<4 | 3, offset: 0},
		{op: opShift, registers: 3, immediate: 16},
		{op: opLoadWord, registers: 1<<4 | 4, offset: 4},
		{op: opLoadWord, registers: 1<<4 | 5, offset: 8},
	}
	for i := len(rules) - 1; i >= 0; i-- {
		tests, err := ruleTests(rules[i])
		if err != nil {
			return nil, err
		}
		verdict := int32(0)
		if rules[i].Allow {
			verdict = 1
		}
		for j := range tests {
			if tests[j].offset == leave {
				tests[j].offset = int16(len(tests) - j + 1) // past the verdict
			}
		}
		program = append(program, tests...)
		program = append(program, instruction{op: opMove, immediate: verdict}, instruction{op: opExit})
		if len(tests) == 0 {
			return program, nil // nothing comes after a rule for everything
		}
	}
	return append(program, instruction{op: opMove}, instruction{op: opExit}), nil
}

// leave stands for a jump to the next rule.
const leave = -1

// ruleTests are the jumps by which a request that does not fit leaves a rule.
func ruleTests(r specs.LinuxDeviceCgroup) (tests []instruction, err error) {
	switch r.Type {
	case "", "a":
	case "b":
		tests = append(tests, instruction{op: opJumpNot, registers: 2, immediate: unix.BPF_DEVCG_DEV_BLOCK, offset: leave})
	case "c", "u":
		tests = append(tests, instruction{op: opJumpNot, registers: 2, immediate: unix.BPF_DEVCG_DEV_CHAR, offset: leave})
	default:
		return nil, fmt.Errorf("device type %q: one of a, b, c is needed", r.Type)
	}
	var access int32
	for letter, bit := range map[string]int32{"m": unix.BPF_DEVCG_ACC_MKNOD, "r": unix.BPF_DEVCG_ACC_READ, "w": unix.BPF_DEVCG_ACC_WRITE} {
		if r.Access == "" || strings.Contains(r.Access, letter) {
			access |= bit
		}
	}
	if access != unix.BPF_DEVCG_ACC_MKNOD|unix.BPF_DEVCG_ACC_READ|unix.BPF_DEVCG_ACC_WRITE {
		// All that is asked for must be among what the rule is about.
		tests = append(tests,
			instruction{op: opMoveReg, registers: 3<<4 | 1},
			instruction{op: opAnd, registers: 1, immediate: access},
			instruction{op: opJumpOther, registers: 3<<4 | 1, offset: leave})
	}
	for i, n := range []*int64{r.Major, r.Minor} {
		if n != nil && *n >= 0 {
			tests = append(tests, instruction{op: opJumpNot, registers: uint8(4 + i), immediate: int32(*n), offset: leave})
		}
	}
	return tests, nil
}

// filters are the loaded programs, by their instructions: most containers have
// the same.
type filters map[string]int

func (t *Tree) limitDevicesV2(path string, rules []specs.LinuxDeviceCgroup) error {
	program, err := deviceProgram(rules)
	if err != nil {
		return err
	}
	t.parents.mu.Lock()
	defer t.parents.mu.Unlock()
	var key bytes.Buffer
	if err := binary.Write(&key, binary.NativeEndian, program); err != nil {
		return err
	}
	fd, ok := t.filters[key.String()]
	if !ok {
		if fd, err = loadFilter(program); err != nil {
			return fmt.Errorf("load the device filter: %w", err)
		}
		t.filters[key.String()] = fd
	}
	return attachFilter(fd, filepath.Join(t.unified, path))
}

func loadFilter(program []instruction) (int, error) {
	license := []byte("Apache-2.0\x00")
	attr := struct {
		kind, count  uint32
		instructions uint64
		license      uint64
		logLevel     uint32
		logSize      uint32
		log          uint64
		version      uint32
		flags        uint32
	}{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(program)),
		instructions: uint64(uintptr(unsafe.Pointer(&program[0]))),
		license:      uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(program)
	runtime.KeepAlive(license)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

func attachFilter(program int, dir string) error {
	group, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer group.Close()
	attr := struct{ target, program, kind, flags uint32 }{
		uint32(group.Fd()), uint32(program), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI,
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 && !errors.Is(errno, unix.EEXIST) {
		return fmt.Errorf("attach the device filter to %s: %w", dir, errno)
	}
	return nil
}
