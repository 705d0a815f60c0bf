package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/engine/node/volume"
)

// createError is a container that could not be created, with upstream's reason.
type createError struct {
	Reason string
	Err    error
}

func (e *createError) Error() string { return e.Err.Error() }
func (e *createError) Unwrap() error { return e.Err }

func configError(err error) error { return &createError{"CreateContainerConfigError", err} }

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// build is one container on its way from specification to driver.
type build struct {
	n       *Node
	pod     *v1.Pod
	c       *v1.Container
	sandbox *sandbox
	handler string
	volumes map[string]volume.Volume
	image   *image.Image
	attempt int

	id     string
	rootfs string
	env    *env
	extras runtime.Extras
	files  files
}

// container resolves everything into what the driver takes. It mounts the root
// directory; the caller unmounts it by id when it does not start the container.
func (b *build) container(ctx context.Context) (*runtime.Container, error) {
	src := b.n.envSource(b.sandbox)
	var err error
	if b.env, err = src.resolve(ctx, b.pod, b.c); err != nil {
		return nil, configError(err)
	}
	if b.rootfs, err = b.mountRoot(ctx); err == nil {
		err = b.n.unchanged(ctx, b.image)
	}
	if err != nil {
		return nil, &createError{"CreateContainerError", err}
	}
	usr, err := identity(b.pod, b.c, b.image.Config.Config.User, b.rootfs)
	if err != nil {
		return nil, configError(err)
	}
	sec, err := b.n.security(b.pod, b.c)
	if err != nil {
		return nil, configError(err)
	}
	ns, err := b.target()
	if err != nil {
		return nil, &createError{"CreateContainerError", err}
	}
	mounts, err := b.mounts()
	if err != nil {
		return nil, configError(err)
	}
	args := b.args()
	if len(args) == 0 {
		return nil, &createError{"CreateContainerError", fmt.Errorf("no command specified: neither the container nor image %q names one", b.c.Image)}
	}
	c := &runtime.Container{
		ID:             b.id,
		PodUID:         string(b.pod.UID),
		Handler:        b.handler,
		Hostname:       b.sandbox.Hostname,
		Labels:         b.labels(),
		Rootfs:         b.rootfs,
		ReadOnlyRootfs: b.c.SecurityContext != nil && isTrue(b.c.SecurityContext.ReadOnlyRootFilesystem),
		Args:           args,
		Env:            b.env.list(b.baseEnv()),
		Cwd:            b.cwd(),
		User:           usr,
		Mounts:         mounts,
		Namespaces:     ns,
		Security:       sec,
		Resources:      b.n.resources(b.pod, b.c),
		LogPath:        b.n.paths.log(b.pod, b.c.Name, b.attempt),
		Stdin:          b.c.Stdin,
		StdinOnce:      b.c.StdinOnce,
		TTY:            b.c.TTY,
	}
	b.grant(c)
	return c, nil
}

func (b *build) mountRoot(ctx context.Context) (string, error) {
	targets := make([]string, len(b.c.VolumeMounts))
	for i := range b.c.VolumeMounts {
		targets[i] = b.c.VolumeMounts[i].MountPath
	}
	pins := b.n.podPins(b.pod, b.sandbox)
	if name := b.pod.Annotations[KeptRootAnnotation]; name != "" && len(b.pod.Spec.Containers) == 1 && b.c.Name == b.pod.Spec.Containers[0].Name {
		if pins.ids != nil {
			return "", fmt.Errorf("annotation %s: a container in a user namespace cannot take over a root", KeptRootAnnotation)
		}
		return b.n.cfg.Images.MountKept(ctx, b.id, image.KeptName(b.pod.Namespace, name))
	}
	if pins.ids != nil {
		return b.n.cfg.Images.MountMapped(ctx, b.id, b.image.Name, targets, pins.imageMapping())
	}
	return b.n.cfg.Images.Mount(ctx, b.id, b.image.Name, targets)
}

func (b *build) labels() map[string]string {
	return map[string]string{
		labelNamespace: b.pod.Namespace,
		labelPod:       b.pod.Name,
		labelContainer: b.c.Name,
		labelAttempt:   fmt.Sprint(b.attempt),
		labelSandbox:   b.sandbox.ID,
		labelImage:     b.c.Image,
		labelImageID:   b.image.RepoDigest(),
		labelSpecHash:  specHash(b.c),
	}
}

// specHash changes when a running container no longer is what the pod wants.
func specHash(c *v1.Container) string { return fmt.Sprintf("%x", kubecontainer.HashContainer(c)) }

// target joins an ephemeral container to the processes of the one it debugs.
func (b *build) target() (ns runtime.Namespaces, err error) {
	if b.extras, err = b.n.extras(b.pod); err != nil {
		return ns, err
	}
	if ns, b.files, err = b.n.namespaces(b.pod, b.sandbox); err != nil {
		return ns, err
	}
	for i := range b.pod.Spec.EphemeralContainers {
		e := &b.pod.Spec.EphemeralContainers[i]
		if e.Name == b.c.Name && e.TargetContainerName != "" && ns.PID == "" {
			if pid := b.n.pidOf(b.pod.UID, e.TargetContainerName); pid > 0 {
				ns.PID = fmt.Sprintf("/proc/%d/ns/pid", pid)
			}
		}
	}
	return ns, nil
}

func (b *build) baseEnv() []string {
	base := slices.Clone(b.image.Config.Config.Env)
	if !slices.ContainsFunc(base, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		base = append(base, defaultPath)
	}
	if b.c.TTY {
		base = append(base, "TERM=xterm")
	}
	return append(base, "HOSTNAME="+b.sandbox.Hostname)
}

// args combines command and args with the image's entrypoint and command, and
// expands $(VAR) in the former.
func (b *build) args() []string {
	mapping := expansion.MappingFuncFor(b.env.values)
	expand := func(list []string) []string {
		out := make([]string, len(list))
		for i, s := range list {
			out[i] = expansion.Expand(s, mapping)
		}
		return out
	}
	img := b.image.Config.Config
	switch {
	case len(b.c.Command) > 0:
		return append(expand(b.c.Command), expand(b.c.Args)...)
	case len(b.c.Args) > 0:
		return append(slices.Clone(img.Entrypoint), expand(b.c.Args)...)
	}
	return append(slices.Clone(img.Entrypoint), img.Cmd...)
}

func (b *build) cwd() string {
	for _, dir := range []string{b.c.WorkingDir, b.image.Config.Config.WorkingDir} {
		if dir != "" {
			return dir
		}
	}
	return "/"
}

func (b *build) mounts() ([]runtime.Mount, error) {
	var out []runtime.Mount
	for i := range b.c.VolumeMounts {
		m, err := b.volumeMount(i, &b.c.VolumeMounts[i])
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	pins := b.n.podPins(b.pod, b.sandbox)
	shm, etc := b.files.shm, b.files.etc
	if b.pod.Spec.HostIPC {
		shm = "/dev/shm"
	}
	readOnly := b.c.SecurityContext != nil && isTrue(b.c.SecurityContext.ReadOnlyRootFilesystem)
	for target, source := range map[string]string{
		"/dev/shm":         shm,
		"/etc/hosts":       filepath.Join(etc, "hosts"),
		"/etc/hostname":    filepath.Join(etc, "hostname"),
		"/etc/resolv.conf": filepath.Join(etc, "resolv.conf"),
	} {
		if b.mountsAt(target) {
			continue
		}
		m := runtime.Mount{Source: source, Target: target, ReadOnly: readOnly && target != "/dev/shm"}
		if m.ReadOnly && pins.ids != nil {
			var err error
			if m, err = pins.view(b.c.Name, m, ""); err != nil { // its owner is the namespace's root as it is
				return nil, err
			}
		}
		out = append(out, m)
	}
	if path := b.c.TerminationMessagePath; path != "" && !b.mountsAt(path) {
		source := b.n.paths.terminationLog(b.pod.UID, b.id)
		if err := makeTerminationLog(source); err != nil {
			return nil, err
		}
		out = append(out, runtime.Mount{Source: source, Target: path})
	}
	// Outer mounts come before what is mounted inside them.
	slices.SortStableFunc(out, func(x, y runtime.Mount) int {
		return strings.Count(filepath.Clean(x.Target), "/") - strings.Count(filepath.Clean(y.Target), "/")
	})
	return out, nil
}

func (b *build) mountsAt(target string) bool {
	return slices.ContainsFunc(b.c.VolumeMounts, func(m v1.VolumeMount) bool { return filepath.Clean(m.MountPath) == target }) ||
		slices.ContainsFunc(b.extras.Tmpfs, func(m runtime.Mount) bool { return filepath.Clean(m.Target) == target })
}

func (b *build) volumeMount(i int, m *v1.VolumeMount) (runtime.Mount, error) {
	vol, ok := b.volumes[m.Name]
	if !ok {
		return runtime.Mount{}, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, b.c.Name)
	}
	if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly == v1.RecursiveReadOnlyEnabled {
		return runtime.Mount{}, fmt.Errorf("volume %q: recursiveReadOnly: Enabled is not supported here, what is mounted inside the volume would stay writable: use IfPossible if that will do", m.Name)
	}
	sub := m.SubPath
	if m.SubPathExpr != "" {
		var missing []string
		sub = expansion.Expand(m.SubPathExpr, func(name string) string {
			v, ok := b.env.values[name]
			if !ok {
				missing = append(missing, name)
			}
			return v
		})
		if len(missing) > 0 {
			return runtime.Mount{}, fmt.Errorf("missing value for %q in subPathExpr of volume %q", missing, m.Name)
		}
	}
	source := vol.Path
	if sub != "" {
		var err error
		if source, err = b.n.volumes.SubPath(b.pod, b.c.Name, i, m.Name, vol, sub); err != nil {
			return runtime.Mount{}, err
		}
	} else if _, err := os.Stat(source); errors.Is(err, os.ErrNotExist) {
		// As with any runtime: an absent hostPath without a type is a directory.
		if err := os.MkdirAll(source, 0o755); err != nil {
			return runtime.Mount{}, fmt.Errorf("volume %q: %w", m.Name, err)
		}
	}
	target := m.MountPath
	if !filepath.IsAbs(target) {
		target = "/" + target
	}
	mount := runtime.Mount{Source: source, Target: target, ReadOnly: m.ReadOnly || vol.ReadOnly, Propagation: propagation(m.MountPropagation)}
	if b.sandbox.UserNS == nil || vol.Image {
		return mount, nil
	}
	mount, err := b.n.podPins(b.pod, b.sandbox).mapVolume(b.c.Name, mount)
	if err != nil {
		return mount, fmt.Errorf("volume %q: %w", m.Name, err)
	}
	return mount, nil
}

func propagation(p *v1.MountPropagationMode) string {
	switch {
	case p != nil && *p == v1.MountPropagationHostToContainer:
		return "rslave"
	case p != nil && *p == v1.MountPropagationBidirectional:
		return "rshared"
	}
	return "private"
}

// makeTerminationLog makes the file that becomes the termination message. Any
// user of the container may write to it.
func makeTerminationLog(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o666)
	if err != nil {
		return fmt.Errorf("make termination log: %w", err)
	}
	err = f.Chmod(0o666) // whatever the umask
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("make termination log: %w", err)
	}
	return nil
}
