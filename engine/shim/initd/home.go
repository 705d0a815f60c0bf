package initd

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// maxPasswd is how much of a container's passwd file is read.
const maxPasswd = 1 << 20

// home sets HOME as the container's passwd file has it, as OCI runtimes do, when
// the environment has none.
func (r rootDir) home(p *recipe.Process) {
	for _, kv := range p.Env {
		if strings.HasPrefix(kv, "HOME=") {
			return
		}
	}
	p.Env = append(p.Env, "HOME="+Home(r.small("/etc/passwd"), p.UID))
}

// Home is a user's home directory by the text of a passwd file, or "/".
func Home(passwd string, user uint64) string {
	uid := strconv.FormatUint(user, 10)
	for line := range strings.SplitSeq(passwd, "\n") {
		// name, password, uid, gid, comment, home, shell
		if f := strings.Split(line, ":"); len(f) >= 6 && f[2] == uid && f[5] != "" {
			return f[5]
		}
	}
	return "/"
}

// small returns the content of a regular file, or "". Anything else is not even
// opened: that alone could have effects.
func (r rootDir) small(path string) string {
	place, err := r.find(path)
	if err != nil {
		return ""
	}
	defer unix.Close(place)
	var info unix.Stat_t
	if err := unix.Fstat(place, &info); err != nil || info.Mode&unix.S_IFMT != unix.S_IFREG {
		return ""
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(place), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	b := make([]byte, min(info.Size, maxPasswd))
	n, err := unix.Read(fd, b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}
