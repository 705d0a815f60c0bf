package launch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/cgroup"
	"github.com/gantryhq/gantry/engine/shim"
	"github.com/gantryhq/gantry/engine/shim/initd"
	"github.com/gantryhq/gantry/engine/shim/protocol"
	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// ErrOldShim means that the shim which holds the containers was started by an
// earlier release that has no launcher.
var ErrOldShim = errors.New("the running container shim is of an earlier release and cannot launch containers: " +
	"use the runtime runc until it has been replaced, which happens when no container runs, or by `gantry down --all`")

// startTimeout bounds one launch, however busy the machine is.
const startTimeout = time.Minute

// Launcher starts containers. All methods are safe for concurrent use.
type Launcher struct {
	shim    *shim.Client
	cgroups *cgroup.Tree
	program *os.File // gantry-init, sealed
	flat    *os.File // initd.FlatProgram, sealed, or nil
	pad     *os.File // the mount namespace that containers begin in
	filters filters
}

// New prepares a launcher. Dir is a directory that stays as it is, executable is
// gantry-init's file, "" means the embedded one.
func New(client *shim.Client, cgroups *cgroup.Tree, dir, executable string) (*Launcher, error) {
	if err := checkKernel(); err != nil {
		return nil, err
	}
	binary, err := shim.InitBinary()
	if executable != "" {
		binary, err = os.ReadFile(executable)
	}
	if err != nil {
		return nil, err
	}
	program, err := shim.Seal("gantry-init", binary)
	if err != nil {
		return nil, err
	}
	pad, err := newPad(dir)
	if err != nil {
		program.Close()
		return nil, err
	}
	l := &Launcher{shim: client, cgroups: cgroups, program: program, pad: pad, filters: newFilters()}
	if quick := initd.FlatProgram(); quick != nil {
		l.flat, err = shim.Seal("gantry-flat-init", quick)
	}
	return l, err
}

// checkKernel asks for the newest system call that the init needs.
func checkKernel() error {
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if errors.Is(err, unix.ENOSYS) {
		return errors.New("gantry's own launcher needs Linux 5.12 or later (mount_setattr): use the runtime runc")
	}
	return nil
}

// IO says where the streams of a container go.
type IO struct {
	LogPath   string // in the CRI format; "" discards the output
	Stdin     bool
	StdinOnce bool
	// PipeDir is a directory for the named pipes of the streams, best in memory;
	// "" is the container's.
	PipeDir string
}

// Prepared is a container that can be started.
type Prepared struct {
	launcher *Launcher
	id       string
	t        translation
	recipe   *recipe.Recipe
}

// Prepare translates a specification. Nothing is made yet.
func (l *Launcher) Prepare(id string, spec *specs.Spec) (*Prepared, error) {
	p := &Prepared{launcher: l, id: id, t: translation{spec: spec, cgroups: l.cgroups, filters: &l.filters}}
	var err error
	if p.recipe, err = p.t.recipe(id); err != nil {
		return nil, fmt.Errorf("start container %q: %w", id, err)
	}
	return p, nil
}

// Start makes the container and returns when its program has been executed.
func (p *Prepared) Start(ctx context.Context, io IO) (protocol.State, error) {
	return p.start(ctx, io, false)
}

// Create makes the container up to the execution of its program. Its state is
// protocol.Held until [Launcher.Release].
func (p *Prepared) Create(ctx context.Context, io IO) (protocol.State, error) {
	return p.start(ctx, io, true)
}

// Release lets a created container run its program.
func (l *Launcher) Release(ctx context.Context, id string) error { return l.shim.Release(ctx, id) }

func (p *Prepared) start(ctx context.Context, io IO, hold bool) (protocol.State, error) {
	l, spec := p.launcher, p.t.spec
	if err := l.checkShim(ctx); err != nil {
		return protocol.State{}, err
	}
	p.recipe.Hold = hold
	group := spec.Linux.CgroupsPath
	release := l.cgroups.Use(group)
	defer release()
	if err := l.cgroups.Create(group, spec.Linux.Resources); err != nil {
		return protocol.State{}, fmt.Errorf("start container %q: %w", p.id, err)
	}
	state, err := p.launch(ctx, io, l.flat)
	if err != nil && strings.Contains(err.Error(), initd.FlatFailure) {
		// It had to be decided on the way, or it cannot be done: then gantry-init says why.
		slog.Debug("the flat init gave up", "container", p.id, "err", err)
		state, err = p.launch(ctx, io, nil)
	}
	return state, err
}

// launch has the shim start the container: by the flat init if there is one and it can do
// that, otherwise by gantry-init.
func (p *Prepared) launch(ctx context.Context, io IO, flat *os.File) (protocol.State, error) {
	l, spec, group := p.launcher, p.t.spec, p.t.spec.Linux.CgroupsPath
	attached, err := p.t.attach()
	if err != nil {
		return protocol.State{}, fmt.Errorf("start container %q: %w", p.id, err)
	}
	defer attached.close()
	program, text := l.program, []byte(nil)
	if flat != nil {
		if text = flattened(p.recipe, attached); text != nil {
			program = flat
		}
	}
	if text == nil {
		text = p.recipe.Encode()
	}
	file, err := write(text)
	if err != nil {
		return protocol.State{}, fmt.Errorf("start container %q: %w", p.id, err)
	}
	defer file.Close()
	start := protocol.Start{
		Launch:    l.request(group, p.t.cloneFlags),
		LogPath:   io.LogPath,
		Stdin:     io.Stdin,
		StdinOnce: io.StdinOnce,
		PipeDir:   io.PipeDir,
		OwnerUID:  int(p.t.rootUID()),
		OwnerGID:  int(p.t.rootGID()),
		OOMFile:   l.cgroups.OOMFile(group),
	}
	start.Launch.Hold = p.recipe.Hold
	start.Launch.Terminal = spec.Process.Terminal
	if !p.t.ownPIDs {
		start.LeftoverFile = l.cgroups.ProcsFile(group)
	}
	return l.shim.Start(ctx, p.id, start, startTimeout, append(l.files(program, file), attached.named()...)...)
}

func (l *Launcher) checkShim(ctx context.Context) error {
	can, err := l.shim.Can(ctx, protocol.FeatureLaunch)
	if err == nil && !can {
		err = ErrOldShim
	}
	return err
}

// request is what the shim itself must know of a launch into a group.
func (l *Launcher) request(group string, cloneFlags uint64) *protocol.Launch {
	r := &protocol.Launch{CloneFlags: cloneFlags}
	if l.cgroups.Unified() {
		r.CgroupDir = l.cgroups.Dir("", group)
	} else {
		r.CgroupProcs = l.cgroups.Procs(group)
	}
	return r
}

func (l *Launcher) files(program, recipeFile *os.File) []shim.LaunchFile {
	return []shim.LaunchFile{
		{Name: protocol.FileInit, File: program},
		{Name: protocol.FileRecipe, File: recipeFile},
		{Name: protocol.FilePad, File: l.pad},
	}
}

// write puts a recipe into a file in memory.
func write(text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("gantry-recipe", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "gantry-recipe")
	if _, err := f.Write(text); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
