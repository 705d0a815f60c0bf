package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// rangeLock is the same file for every instance of this machine.
const rangeLock = "/run/gantry-network.lock"

// LockRanges keeps other instances on this machine from choosing address ranges
// until unlock is called: between [MakePlan], which looks what is free, and
// [Open], which makes the choice visible, nobody else may look. The kernel
// unlocks when the process ends.
func LockRanges(ctx context.Context) (unlock func() error, err error) {
	f, err := os.OpenFile(rangeLock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock address ranges: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", rangeLock, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: another instance of Gantry has been starting for a long time: %w", rangeLock, ctx.Err()), f.Close())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
