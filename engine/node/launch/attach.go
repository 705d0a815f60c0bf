package launch

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim"
	"github.com/gantryhq/gantry/engine/shim/protocol"
	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// maxAttached is how many files can come with a recipe: the kernel's limit for
// one message, less the init and the recipe itself.
const maxAttached = 250

// attachments are what a container uses of the host: opened here, they reach
// the init as descriptors, so that it never has to look around on the host.
type attachments struct {
	files []*os.File
}

func (a *attachments) add(fd int, name string) recipe.File {
	a.files = append(a.files, os.NewFile(uintptr(fd), name))
	return recipe.File(len(a.files))
}

// tree is a mount of path that is nowhere yet.
func (a *attachments) tree(path string, recursive bool) (recipe.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return 0, err
	}
	return a.add(fd, path), nil
}

func (a *attachments) namespace(path string) (recipe.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	return a.add(fd, path), nil
}

func (a *attachments) close() {
	for _, f := range a.files {
		f.Close()
	}
}

// named are the files as the shim takes them.
func (a *attachments) named() (files []shim.LaunchFile) {
	for i, f := range a.files {
		files = append(files, shim.LaunchFile{Name: protocol.FileAttached + strconv.Itoa(i), File: f})
	}
	return files
}

// attach opens everything that the recipe speaks of.
func (t *translation) attach() (a *attachments, err error) {
	a = &attachments{}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	r := &t.out
	for i := range r.Joins {
		j := &r.Joins[i]
		if j.File, err = a.namespace(j.Path); err != nil {
			return a, fmt.Errorf("join namespace %q: %w", j.Path, err)
		}
	}
	if r.RootFile, err = a.tree(r.Root, true); err != nil {
		return a, fmt.Errorf("open root directory %q: %w", r.Root, err)
	}
	// On a host with shared mounts, as systemd makes them, it is one of them: what is mounted
	// in it would appear on the host.
	private := &unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if err = unix.MountSetattr(int(a.files[r.RootFile-1].Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, private); err != nil {
		return a, fmt.Errorf("make root directory %q private: %w", r.Root, err)
	}
	for i := range r.Mounts {
		m := &r.Mounts[i]
		if m.FS != "" || m.Remount {
			continue
		}
		if m.File, err = a.tree(m.Source, t.recursive[i]); err != nil {
			return a, fmt.Errorf("mount %q on %q: %w", m.Source, m.Target, err)
		}
		if err = t.guardReadOnly(a.files[m.File-1]); err != nil {
			return a, fmt.Errorf("mount %q on %q: %w", m.Source, m.Target, err)
		}
	}
	if r.SecondStage&unix.CLONE_NEWUSER != 0 {
		for i := range r.Devices {
			d := &r.Devices[i]
			if d.File, err = a.tree(d.Path, false); err != nil {
				return a, fmt.Errorf("open device %q: %w", d.Path, err)
			}
		}
	}
	if r.Files = uint64(len(a.files)); r.Files > maxAttached {
		return a, fmt.Errorf("%d mounts and namespaces: at most %d are possible", r.Files, maxAttached)
	}
	return a, nil
}
