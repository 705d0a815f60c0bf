package protocol

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// AcceptTerminal receives a terminal's master side on a console socket, as OCI
// runtimes send it: one message with the terminal's name and one descriptor.
func AcceptTerminal(l *net.UnixListener) (*os.File, error) {
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	name := make([]byte, 4096)
	rights := make([]byte, unix.CmsgSpace(maxFiles*4))
	_, n, _, _, err := conn.ReadMsgUnix(name, rights)
	if err != nil {
		return nil, err
	}
	files, err := parseRights(rights[:n])
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	if len(files) != 1 {
		return nil, errors.New("no terminal arrived on the console socket")
	}
	return Pollable(files[0])
}

// Pollable duplicates a received descriptor into one on which a goroutine can
// wait without a thread and with deadlines.
func Pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
