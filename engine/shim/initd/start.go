package initd

import (
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// start makes this process the first one of a container.
func start(r *recipe.Recipe, first bool) error {
	if first {
		if err := begin(r); err != nil {
			return err
		}
	}
	if r.CgroupNamespace {
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			return fail("make a control group namespace", "", err)
		}
	}
	unix.Umask(0) // modes are meant as they are written
	if err := names(r); err != nil {
		return err
	}
	if r.Process.Keyring != "" {
		if err := joinKeyring(r.Process.Keyring); err != nil {
			return err
		}
	}
	if err := buildRoot(r); err != nil {
		return err
	}
	return become(r)
}

// begin waits until the process is in its control groups, and does what takes
// the rights of the host.
func begin(r *recipe.Recipe) error {
	if err := await(recipe.MessageGo); err != nil {
		return err
	}
	if score := r.Process.OOMScoreAdj; score != "" {
		if err := writeFile("/proc/self/oom_score_adj", score); err != nil {
			return fail("set the out-of-memory score", score, err)
		}
	}
	for _, j := range r.Joins {
		if err := unix.Setns(descriptor(j.File), int(j.Kind)); err != nil {
			return fail("join namespace", j.Path, err)
		}
	}
	return nil
}

// descriptor is where a file of the recipe is open.
func descriptor(f recipe.File) int { return recipe.FilesFD + int(f) - 1 }

func names(r *recipe.Recipe) error {
	if r.Hostname != "" {
		if err := unix.Sethostname([]byte(r.Hostname)); err != nil {
			return fail("set hostname", r.Hostname, err)
		}
	}
	if r.Domainname != "" {
		return fail("set domain name", r.Domainname, unix.Setdomainname([]byte(r.Domainname)))
	}
	return nil
}

// joinKeyring gives the container a session keyring, so that it does not have
// the host's.
func joinKeyring(name string) error {
	_, err := unix.KeyctlJoinSessionKeyring(name)
	if err == unix.ENOSYS { // a kernel without keyrings has none to protect
		return nil
	}
	return fail("join session keyring", name, err)
}

// firstStage joins what must be joined from outside, has the shim's next child
// go on from there, and ends.
func firstStage(r *recipe.Recipe) error {
	if err := begin(r); err != nil {
		return err
	}
	attr := &syscall.SysProcAttr{
		Cloneflags:                 uintptr(r.SecondStage) | unix.CLONE_PARENT,
		UidMappings:                mappings(r.UIDMap),
		GidMappings:                mappings(r.GIDMap),
		GidMappingsEnableSetgroups: true,
		Setsid:                     true,
	}
	if r.SecondStage&unix.CLONE_NEWUSER != 0 {
		// Executing as a user without a name in the namespace would cost all
		// capabilities in it.
		attr.Credential = &syscall.Credential{NoSetGroups: true}
	}
	files := []uintptr{0, 1, 2, recipe.ControlFD, recipe.RecipeFD}
	for n := range r.Files {
		files = append(files, uintptr(descriptor(n+1)))
	}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"gantry-init"}, &syscall.ProcAttr{
		Env:   append(syscall.Environ(), recipe.StageEnv+"=2"),
		Files: files,
		Sys:   attr,
	})
	if err != nil {
		return fail("start in the container's namespaces", "", err)
	}
	send(recipe.MessagePID, strconv.Itoa(pid))
	return nil
}

func mappings(m []recipe.IDMap) (out []syscall.SysProcIDMap) {
	for _, e := range m {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(e.Inside), HostID: int(e.Outside), Size: int(e.Length)})
	}
	return out
}

func writeFile(path, value string) error {
	return writeAt(unix.AT_FDCWD, path, value)
}

func writeAt(dir int, path, value string) error {
	fd, err := unix.Openat(dir, path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(value))
	unix.Close(fd)
	return err
}
