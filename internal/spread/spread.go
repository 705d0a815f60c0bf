// Package spread makes directories whose subdirectories are independent of each
// other, one for each container or pod, and come and go by the hundred.
//
// ext4 puts a new inode beside that of its directory. Without a journal it first
// passes over all inodes there that were deleted within the last minute, so that making
// anything costs the more, the more was deleted: after two hundred pods have gone
// more than a millisecond for the few directories of a container. Directories that are
// marked as the top of unrelated trees, the T of chattr(1), have theirs spread over the
// disk instead, where few were deleted. With a journal, and on other file systems, the
// mark changes nothing that can be measured.
//
// Everybody may import it.
package spread

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// topOfTrees is FS_TOPDIR_FL of linux/fs.h.
const topOfTrees = 0x00020000

// MkdirAll makes a directory as os.MkdirAll does and has its subdirectories spread,
// if the file system knows how. What is there stays where it is.
func MkdirAll(dir string, mode fs.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	// A hint: who does not take it need not say why.
	if flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS); err == nil && flags&topOfTrees == 0 {
		_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags|topOfTrees))
	}
	return nil
}
