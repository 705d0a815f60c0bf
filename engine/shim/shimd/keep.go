package shimd

import (
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// maxKept bounds how many descriptors are kept.
const maxKept = 8

// keeper holds open files for clients that come and go. A bound socket that is kept goes
// on to queue what arrives while nobody reads it.
//
// It holds bare descriptors: as an os.File, a socket would wake the shim for every packet
// that arrives for its reader.
type keeper struct {
	mu  sync.Mutex
	fds map[string]int // guarded by mu
}

// keep holds duplicates of the files, each in place of the one of its name.
func (k *keeper) keep(files map[string]*os.File) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fds == nil {
		k.fds = map[string]int{}
	}
	for name, f := range files {
		old, have := k.fds[name]
		if !have && len(k.fds) == maxKept {
			return protocol.Errorf(protocol.CodeInvalid, "keep %q: the shim keeps %d files at most", name, maxKept)
		}
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return os.NewSyscallError("dup", err)
		}
		if have {
			unix.Close(old)
		}
		k.fds[name] = fd
	}
	return nil
}

// kept replies with those of the named files that are kept.
func (k *keeper) kept(conn *net.UnixConn, names []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var reply protocol.Reply
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, name := range names {
		kept, ok := k.fds[name]
		if !ok {
			continue
		}
		fd, err := unix.FcntlInt(uintptr(kept), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return os.NewSyscallError("dup", err)
		}
		reply.Files, files = append(reply.Files, name), append(files, os.NewFile(uintptr(fd), name))
	}
	return protocol.Write(conn, reply, files...)
}
