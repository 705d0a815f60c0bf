package shimd

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// spawner is a thread that can be in another mount namespace than the rest of
// the shim: what it clones is born there.
type spawner struct {
	calls chan func()
	home  *os.File // the shim's own mount namespace
	in    unix.Stat_t
}

// newSpawner starts the thread.
func newSpawner() (*spawner, error) {
	home, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	s := &spawner{calls: make(chan func()), home: home}
	ready := make(chan error)
	go s.run(ready)
	if err := <-ready; err != nil {
		home.Close()
		return nil, os.NewSyscallError("unshare", err)
	}
	return s, nil
}

func (s *spawner) run(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The first thread is what others see as the process: let another one go.
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.run(ready)
		}()
		<-done
		return
	}
	err := unix.Unshare(unix.CLONE_FS) // a mount namespace is joined alone
	ready <- err
	if err != nil {
		return
	}
	for call := range s.calls {
		call()
	}
}

// do calls f on the thread, in the mount namespace pad or, without one, in the
// shim's own.
func (s *spawner) do(pad *os.File, f func() error) error {
	done := make(chan error)
	s.calls <- func() {
		err := s.move(pad)
		if err == nil {
			err = f()
		}
		done <- err
	}
	return <-done
}

// move brings the thread into a mount namespace, unless it is there.
func (s *spawner) move(pad *os.File) error {
	if pad == nil {
		pad = s.home
	}
	var there unix.Stat_t
	if err := unix.Fstat(int(pad.Fd()), &there); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if there.Dev == s.in.Dev && there.Ino == s.in.Ino {
		return nil
	}
	if err := unix.Setns(int(pad.Fd()), unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("setns", err)
	}
	s.in = there
	return nil
}
