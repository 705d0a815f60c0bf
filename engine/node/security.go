package node

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/securitycontext"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// effectiveSecurity is what holds for a container: its own security context, and the
// pod's where it says nothing. Upstream's function leaves the profiles out, which the
// kubelet resolves elsewhere.
func effectiveSecurity(pod *v1.Pod, c *v1.Container) *v1.SecurityContext {
	sc := *securitycontext.DetermineEffectiveSecurityContext(pod, c)
	if own := c.SecurityContext; own != nil {
		sc.SeccompProfile, sc.AppArmorProfile = own.SeccompProfile, own.AppArmorProfile
	}
	if pods := pod.Spec.SecurityContext; pods != nil {
		sc.SeccompProfile = cmp.Or(sc.SeccompProfile, pods.SeccompProfile)
		sc.AppArmorProfile = cmp.Or(sc.AppArmorProfile, pods.AppArmorProfile)
	}
	return &sc
}

// security resolves the pod's and the container's security context.
func (n *Node) security(pod *v1.Pod, c *v1.Container) (runtime.Security, error) {
	sc := effectiveSecurity(pod, c)
	s := runtime.Security{
		Privileged:        isTrue(sc.Privileged),
		AllowPrivilegeEsc: !securitycontext.AddNoNewPrivileges(sc),
		UnmaskedProc:      sc.ProcMount != nil && *sc.ProcMount == v1.UnmaskedProcMount,
	}
	if sc.Capabilities != nil {
		s.AddCapabilities = capabilities(sc.Capabilities.Add)
		s.DropCapabilities = capabilities(sc.Capabilities.Drop)
	}
	if p := sc.SeccompProfile; p != nil {
		switch p.Type {
		case v1.SeccompProfileTypeUnconfined:
			s.SeccompUnconfined = true
		case v1.SeccompProfileTypeLocalhost:
			if p.LocalhostProfile == nil || !filepath.IsLocal(*p.LocalhostProfile) {
				return s, errors.New("localhost seccomp profile must be a path relative to the node's seccomp directory")
			}
			s.SeccompProfile = filepath.Join(n.cfg.DataDir, "seccomp", *p.LocalhostProfile)
			if _, err := os.Stat(s.SeccompProfile); err != nil {
				return s, fmt.Errorf("seccomp profile: %w: put the profile there", err)
			}
		}
	}
	s.AppArmorProfile = appArmor(sc.AppArmorProfile)
	return s, nil
}

func capabilities(list []v1.Capability) []string {
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = strings.TrimPrefix(strings.ToUpper(string(c)), "CAP_")
	}
	return out
}

func appArmor(p *v1.AppArmorProfile) string {
	switch {
	case p == nil || p.Type == v1.AppArmorProfileTypeRuntimeDefault:
		return ""
	case p.Type == v1.AppArmorProfileTypeLocalhost && p.LocalhostProfile != nil:
		return *p.LocalhostProfile
	}
	return "unconfined"
}

// identity resolves who the container's first process is. Names come from the
// passwd and group files in rootfs, read without leaving it.
func identity(pod *v1.Pod, c *v1.Container, imageUser, rootfs string) (runtime.User, error) {
	sc := effectiveSecurity(pod, c)
	spec := imageUser
	if sc.RunAsUser != nil {
		spec = strconv.FormatInt(*sc.RunAsUser, 10)
	}
	if err := verifyNonRoot(sc, imageUser); err != nil {
		return runtime.User{}, err
	}
	found, err := lookUp(rootfs, spec)
	if err != nil {
		return runtime.User{}, err
	}
	u := runtime.User{UID: uint32(found.Uid), GID: uint32(found.Gid)}
	if sc.RunAsGroup != nil {
		u.GID = uint32(*sc.RunAsGroup)
	}
	psc := pod.Spec.SecurityContext
	strict := psc != nil && psc.SupplementalGroupsPolicy != nil && *psc.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict
	if !strict {
		for _, g := range found.Sgids {
			u.AdditionalGroups = append(u.AdditionalGroups, uint32(g))
		}
	}
	if psc != nil {
		for _, g := range psc.SupplementalGroups {
			u.AdditionalGroups = append(u.AdditionalGroups, uint32(g))
		}
		if psc.FSGroup != nil {
			u.AdditionalGroups = append(u.AdditionalGroups, uint32(*psc.FSGroup))
		}
	}
	slices.Sort(u.AdditionalGroups)
	u.AdditionalGroups = slices.Compact(u.AdditionalGroups)
	return u, nil
}

// verifyNonRoot refuses what runAsNonRoot forbids, and what it cannot judge.
func verifyNonRoot(sc *v1.SecurityContext, imageUser string) error {
	if !isTrue(sc.RunAsNonRoot) {
		return nil
	}
	if sc.RunAsUser != nil {
		if *sc.RunAsUser == 0 {
			return errors.New("container's runAsUser breaks non-root policy: set runAsUser to another user than 0")
		}
		return nil
	}
	name, _, _ := strings.Cut(imageUser, ":")
	uid, err := strconv.Atoi(name)
	switch {
	case name == "" || err == nil && uid == 0:
		return errors.New("container has runAsNonRoot and image will run as root: set runAsUser or USER in the image")
	case err != nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root: set runAsUser", name)
	}
	return nil
}

func lookUp(rootfs, spec string) (*user.ExecUser, error) {
	passwd, err := openInRoot(rootfs, "/etc/passwd")
	if err != nil {
		return nil, err
	}
	defer passwd.Close()
	group, err := openInRoot(rootfs, "/etc/group")
	if err != nil {
		return nil, err
	}
	defer group.Close()
	found, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return nil, fmt.Errorf("resolve user %q in the image: %w", spec, err)
	}
	return found, nil
}

// openInRoot opens a file as a process whose root is rootfs would, whatever
// symbolic links the image contains. An absent file reads as empty.
func openInRoot(rootfs, path string) (io.ReadCloser, error) {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root %s: %w", rootfs, err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s in the image: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("open %s in the image: not a regular file", path)
	}
	return f, nil
}
