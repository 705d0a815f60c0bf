package node

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"

	v1 "k8s.io/api/core/v1"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// startPause starts the process that is pid 1 of a shared PID namespace.
func (n *Node) startPause(ctx context.Context, pod *v1.Pod, s *sandbox, handler string) error {
	id := containerID(pod.UID, pauseContainer, 0)
	if err := n.cfg.Driver.Remove(ctx, id); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale pause process: %w", err)
	}
	root := n.paths.pause()
	if err := writePause(root); err != nil {
		return err
	}
	ns, _, err := n.namespaces(pod, s)
	if err != nil {
		return err
	}
	ns.PID = ""
	st, err := n.cfg.Driver.Start(ctx, &runtime.Container{
		ID:      id,
		PodUID:  string(pod.UID),
		Handler: handler,
		Labels: map[string]string{
			labelNamespace: pod.Namespace, labelPod: pod.Name,
			labelContainer: pauseContainer, labelSandbox: s.ID,
		},
		Hostname:       s.Hostname,
		Rootfs:         root,
		ReadOnlyRootfs: true,
		Args:           []string{"/pause"},
		Cwd:            "/",
		User:           runtime.User{UID: 65535, GID: 65535},
		Namespaces:     ns,
		Security:       runtime.Security{DropCapabilities: []string{"ALL"}},
		Resources:      runtime.Resources{CPUShares: minShares},
	})
	if err != nil {
		return fmt.Errorf("start pause process: %w", err)
	}
	s.PIDNS = fmt.Sprintf("/proc/%d/ns/pid", st.PID)
	return nil
}

// writePause makes the root directory that all pause processes share. Nobody can
// write to it from inside, and a new process finds what a former one wrote.
func writePause(root string) error {
	program, err := pauseProgram(goruntime.GOARCH)
	if err != nil {
		return err
	}
	path := filepath.Join(root, "pause")
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, program) {
		return nil
	}
	for _, mountPoint := range []string{"proc", "sys", "dev"} { // who runs in a user namespace cannot make them
		if err := os.MkdirAll(filepath.Join(root, mountPoint), 0o755); err != nil {
			return fmt.Errorf("write pause program: %w", err)
		}
	}
	f, err := os.CreateTemp(root, "new-")
	if err != nil {
		return fmt.Errorf("write pause program: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(program)
	if err := errors.Join(err, f.Chmod(0o755), f.Close()); err != nil {
		return fmt.Errorf("write pause program: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write pause program: %w", err)
	}
	return nil
}

// pauseCode ignores SIGCHLD, so that the kernel reaps orphans by itself, and
// sleeps for ever. A struct sigaction that says SIG_IGN follows the code.
var pauseCode = map[string]struct {
	machine elf.Machine
	code    []byte
}{
	"amd64": {elf.EM_X86_64, []byte{
		0xb8, 13, 0, 0, 0, // mov eax, rt_sigaction
		0xbf, 17, 0, 0, 0, // mov edi, SIGCHLD
		0x48, 0x8d, 0x35, 19, 0, 0, 0, // lea rsi, [rip+19]
		0x31, 0xd2, // xor edx, edx
		0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
		0x0f, 0x05, // syscall
		0xb8, 34, 0, 0, 0, // mov eax, pause
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp to mov eax, pause
	}},
	"arm64": {elf.EM_AARCH64, words(
		0xd2800220, // mov x0, SIGCHLD
		0x100001a1, // adr x1, pc+52
		0xd2800002, // mov x2, 0
		0xd2800103, // mov x3, 8
		0xd28010c8, // mov x8, rt_sigaction
		0xd4000001, // svc 0
		0xd2800000, // mov x0, 0
		0xd2800001, // mov x1, 0
		0xd2800002, // mov x2, 0
		0xd2800003, // mov x3, 0
		0xd2800928, // mov x8, ppoll
		0xd4000001, // svc 0
		0x17fffffa, // b to mov x0, 0
		0xd503201f, // nop, keeps what follows aligned
	)},
}

func words(list ...uint32) []byte {
	var out []byte
	for _, w := range list {
		out = binary.LittleEndian.AppendUint32(out, w)
	}
	return out
}

// pauseProgram assembles a static executable of some 200 bytes.
func pauseProgram(arch string) ([]byte, error) {
	p, ok := pauseCode[arch]
	if !ok {
		return nil, fmt.Errorf("shareProcessNamespace is not supported on %s: run the pod without it", arch)
	}
	const base, headers = 0x400000, 64 + 56
	body := append(bytes.Clone(p.code), 1) // sa_handler SIG_IGN, all else zero
	body = append(body, make([]byte, 63)...)
	size := uint64(headers + len(body))
	var b bytes.Buffer
	header := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(p.machine), Version: 1, Entry: base + headers,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base,
		Filesz: size, Memsz: size, Align: 0x1000,
	}
	for _, part := range []any{header, segment, body} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			return nil, fmt.Errorf("assemble pause program: %w", err)
		}
	}
	return b.Bytes(), nil
}
