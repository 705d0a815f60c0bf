package launch

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/initd"
	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// flattened is the recipe for the flat init, or nil when that cannot follow it.
func flattened(r *recipe.Recipe, a *attachments) []byte {
	home, known := homeOf(r, a)
	if !known {
		return nil
	}
	directories := make([]bool, len(a.files))
	for i, f := range a.files {
		var info unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &info); err != nil {
			return nil
		}
		directories[i] = info.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	text, ok := initd.Flat(r, directories, home)
	if !ok {
		return nil
	}
	return text
}

// maxPasswd is how much of a container's passwd file is read.
const maxPasswd = 1 << 20

// homeOf is what gantry-init sets as HOME when the environment has none, or "" when it
// has: the home directory of the user as the root's passwd file has it. It is not known
// when the file is not simply one of the root directory.
func homeOf(r *recipe.Recipe, a *attachments) (dir string, known bool) {
	for _, kv := range r.Process.Env {
		if strings.HasPrefix(kv, "HOME=") {
			return "", true
		}
	}
	for i := range r.Mounts {
		if m := r.Mounts[i].Target; m == "/" || m == "/etc" || m == "/etc/passwd" {
			return "", false
		}
	}
	fd, err := unix.Openat2(int(a.files[r.RootFile-1].Fd()), "etc/passwd", &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if errors.Is(err, unix.ENOENT) {
		return "/", true
	}
	if err != nil {
		return "", false
	}
	defer unix.Close(fd)
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil || info.Mode&unix.S_IFMT != unix.S_IFREG || info.Size > maxPasswd {
		return "", false // to open anything else could have effects
	}
	file, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", false
	}
	defer unix.Close(file)
	text := make([]byte, info.Size)
	n, err := unix.Read(file, text)
	if err != nil {
		return "", false
	}
	return initd.Home(string(text[:n]), r.Process.UID), true
}
