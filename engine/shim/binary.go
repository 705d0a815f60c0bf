package shim

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

//go:embed embedded
var embedded embed.FS

// Binary returns the shim's executable, when this program was built with it.
func Binary() ([]byte, error) { return program("gantry-shim") }

// InitBinary returns gantry-init's executable, when this program was built with it.
func InitBinary() ([]byte, error) { return program("gantry-init") }

func program(name string) ([]byte, error) {
	b, err := embedded.ReadFile("embedded/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this gantry was built without %s: build it with `make build`", name)
	}
	if err != nil {
		return nil, fmt.Errorf("read embedded %s: %w", name, err)
	}
	return b, nil
}

// Seal puts an executable into a file in memory that nobody can change any
// more, not even a container that finds itself executing it.
func Seal(name string, executable []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 all of them are executable
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("seal %s in memory: %w (vm.memfd_noexec=2 forbids it)", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(executable)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("seal %s in memory: %w", name, err)
	}
	return f, nil
}
