package initd

import (
	"strings"

	"golang.org/x/sys/unix"
)

// rootDir is the container's root directory. Every path is resolved inside it,
// as after chroot(2): links of the image that point out of it stay in it.
type rootDir struct{ fd int }

// maxLinks is how many links to missing things are followed while making them.
const maxLinks = 40

// open opens a path inside the root.
func (r rootDir) open(path string, flags, resolve uint64) (int, error) {
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve | unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		// EAGAIN: something was renamed during the resolution.
		fd, err := unix.Openat2(r.fd, path, how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// find opens a place in the tree.
func (r rootDir) find(path string) (int, error) { return r.open(path, unix.O_PATH, 0) }

// make opens a place in the tree and makes it, a directory or an empty file,
// with the directories above it when it is missing.
func (r rootDir) make(path string, directory bool) (int, error) {
	return r.makeLinked(path, directory, 0)
}

func (r rootDir) makeLinked(path string, directory bool, links int) (int, error) {
	if fd, err := r.find(path); err != unix.ENOENT {
		return fd, err
	}
	if links > maxLinks {
		return -1, unix.ELOOP
	}
	parent, err := r.find("/")
	if err != nil {
		return -1, err
	}
	names := parts(path)
	for i, name := range names {
		above := "/" + strings.Join(names[:i], "/")
		next, err := r.find(above + "/" + name)
		if err == unix.ENOENT {
			err = makeOne(parent, name, directory || i < len(names)-1)
			if err == unix.EEXIST { // a link to something missing
				link, linkErr := readLink(parent, name)
				unix.Close(parent)
				if linkErr != nil {
					return -1, linkErr
				}
				if !strings.HasPrefix(link, "/") {
					link = above + "/" + link
				}
				return r.makeLinked(link+"/"+strings.Join(names[i+1:], "/"), directory, links+1)
			}
			if err == nil {
				next, err = unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			}
		}
		unix.Close(parent)
		if err != nil {
			return -1, err
		}
		parent = next
	}
	return parent, nil
}

func makeOne(parent int, name string, directory bool) error {
	if directory {
		return unix.Mkdirat(parent, name, 0o755)
	}
	fd, err := unix.Openat(parent, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func readLink(parent int, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(parent, name, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// parts splits a path into its names.
func parts(path string) (names []string) {
	for _, name := range strings.Split(path, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	return names
}

// split is the directory of a path and the last name.
func split(path string) (dir, name string) {
	names := parts(path)
	if len(names) == 0 {
		return "/", "."
	}
	return "/" + strings.Join(names[:len(names)-1], "/"), names[len(names)-1]
}
