package store

import (
	"errors"
	"fmt"
	"syscall"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrClosed is answered by every operation after Close.
	ErrClosed = errors.New("store is closed")
	// ErrCompacted is answered when a revision is older than the store remembers.
	ErrCompacted = errors.New("revision is too old: its history has been discarded; read the current state and continue from there")
	// ErrFutureRevision is answered when a revision has not happened yet.
	ErrFutureRevision = errors.New("revision has not happened yet")
	// ErrSlowWatcher ends a watch whose reader fell too far behind.
	ErrSlowWatcher = errors.New("watcher fell too far behind and was closed; list again and watch from there")
	// ErrConflict is matched by every *ConflictError.
	ErrConflict = errors.New("conflict")
)

// ConflictError says that a write expected another revision of its key.
type ConflictError struct {
	Key      string
	Expected uint64
	// Current is what the key holds, or nil when it does not exist.
	Current *Entry
}

func (e *ConflictError) Error() string {
	switch {
	case e.Current == nil:
		return fmt.Sprintf("key %q does not exist, expected at revision %d", e.Key, e.Expected)
	case e.Expected == Absent:
		return fmt.Sprintf("key %q exists already, at revision %d", e.Key, e.Current.ModRevision)
	default:
		return fmt.Sprintf("key %q is at revision %d, expected at %d", e.Key, e.Current.ModRevision, e.Expected)
	}
}

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// NoSpaceError says that a write was refused because the disk is full. Nothing
// changed, in memory or on disk; the same write succeeds once space returns.
// errors.Is(err, syscall.ENOSPC) is true.
type NoSpaceError struct {
	Path string
	Err  error
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("write %s: the disk is full, nothing was changed; free some space and try again: %v", e.Path, e.Err)
}

func (e *NoSpaceError) Unwrap() []error { return []error{syscall.ENOSPC, e.Err} }

// CorruptError says that the file is damaged. It was left as it is.
type CorruptError struct {
	Path   string
	Reason error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("state file %s is damaged (%v) and was left untouched; "+
		"to restore, stop gantry, move the file aside, put a backup in its place under the same name and start again",
		e.Path, e.Reason)
}

func (e *CorruptError) Unwrap() error { return e.Reason }

// LockedError says that another process has the file open.
type LockedError struct {
	Path string
	// Holder names the process, or is empty when it cannot be found out.
	Holder string
}

func (e *LockedError) Error() string {
	holder := e.Holder
	if holder == "" {
		holder = "another process"
	}
	return fmt.Sprintf("state file %s is in use by %s; stop it, or choose another data directory", e.Path, holder)
}
