package driver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantryhq/gantry/engine/node/cgroup"
	"github.com/gantryhq/gantry/engine/node/launch"
	"github.com/gantryhq/gantry/engine/node/ocispec"
	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/engine/shim"
	"github.com/gantryhq/gantry/engine/shim/protocol"
	"github.com/gantryhq/gantry/internal/spread"
)

var _ runtime.Driver = (*Driver)(nil)

// ErrUnknownHandler means that a container asked for an OCI runtime that this
// node was not told about.
var ErrUnknownHandler = errors.New("unknown runtime handler")

// startTimeout bounds one run of the OCI runtime.
const startTimeout = 2 * time.Minute

// Config is what a driver needs. Only DataDir is required.
type Config struct {
	// DataDir is the instance's data directory; the driver works below DataDir/run.
	DataDir string
	// ShimPath is the shim's executable. "" installs the embedded one.
	ShimPath string
	// InitPath is gantry-init's executable. "" takes the embedded one.
	InitPath string
	// Default is the handler of containers that name none: Builtin, "runc" or a
	// name in Handlers. "" is "runc".
	Default string
	// Handlers maps RuntimeClass handlers to OCI runtime executables. "runc"
	// and "" are runc unless they say otherwise.
	Handlers map[string]string
	Logger   *slog.Logger
}

// Builtin is the handler of gantry's own launcher. In a record it stands where
// the path of an OCI runtime stands otherwise.
const Builtin = "gantry"

// Driver starts containers, through gantry's own launcher or an OCI runtime.
type Driver struct {
	config  Config
	log     *slog.Logger
	runDir  string // DataDir/run
	shim    *shim.Client
	cgroups *cgroup.Tree
	specs   *ocispec.Builder
	// launcher is made when it is first used: not every host can have it.
	launcher func() (*launch.Launcher, error)
	slots    chan struct{} // bounds runs of the OCI runtime
	execs    atomic.Uint64 // numbers the files of execs

	mu sync.Mutex
	// busy are the ids that a Start or a Remove works on.
	busy  map[string]bool
	known map[string]*record // started and not yet removed
}

// New prepares a driver, starts the shim or finds the one that runs, and removes
// what interrupted starts left behind.
func New(config Config) (*Driver, error) {
	d, err := newDriver(config)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{d.containersDir(), d.stateDir()} {
		if err := spread.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
	}
	if err := mountBundles(d.bundlesDir()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := d.shim.Ensure(ctx); err != nil {
		return nil, err
	}
	if err := d.load(); err != nil {
		return nil, err
	}
	if _, err := d.List(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// newDriver only looks at the host.
func newDriver(config Config) (*Driver, error) {
	dataDir, err := filepath.Abs(config.DataDir)
	if err != nil {
		return nil, err
	}
	config.DataDir = dataDir
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	d := &Driver{
		config: config,
		log:    config.Logger,
		runDir: filepath.Join(dataDir, "run"),
		slots:  make(chan struct{}, 2*goruntime.NumCPU()),
		busy:   map[string]bool{},
		known:  map[string]*record{},
	}
	if d.cgroups, err = cgroup.Find(rootCgroup(dataDir)); err != nil {
		return nil, err
	}
	if d.specs, err = ocispec.New(d.cgroups); err != nil {
		return nil, err
	}
	d.shim = shim.New(d.runDir, d.shimPath)
	d.launcher = sync.OnceValues(func() (*launch.Launcher, error) { return launch.New(d.shim, d.cgroups, d.runDir, config.InitPath) })
	return d, nil
}

// rootCgroup names the cgroup of an instance after its data directory, so that
// two instances never meet and one finds its own again.
func rootCgroup(dataDir string) string {
	sum := sha256.Sum256([]byte(dataDir))
	return "/gantry-" + hex.EncodeToString(sum[:4])
}

func (d *Driver) containersDir() string { return filepath.Join(d.runDir, protocol.ContainersDir) }
func (d *Driver) stateDir() string      { return filepath.Join(d.runDir, "runc") }
func (d *Driver) bundlesDir() string    { return filepath.Join(d.runDir, "bundles") }
func (d *Driver) bundle(id string) string {
	return filepath.Join(d.bundlesDir(), id)
}
func (d *Driver) dir(id string) string { return filepath.Join(d.containersDir(), id) }

func (d *Driver) shimPath() (string, error) {
	if d.config.ShimPath != "" {
		return d.config.ShimPath, nil
	}
	return shim.Install(filepath.Join(d.runDir, "bin"))
}

// PausePath returns an executable on the host that, called with the argument
// "pause", is a first process for a pid namespace that containers share. It is
// static: bind-mounted into any root it runs.
func (d *Driver) PausePath() (string, error) { return d.shimPath() }

// CgroupRoot is the path of the instance's cgroup in every hierarchy.
func (d *Driver) CgroupRoot() string { return d.cgroups.Root() }

// binary finds the OCI runtime of a handler, or Builtin.
func (d *Driver) binary(handler string) (string, error) {
	if handler == "" {
		handler = d.config.Default
	}
	if handler == Builtin {
		return Builtin, nil
	}
	name, ok := d.config.Handlers[handler]
	if !ok && (handler == "" || handler == "runc") {
		name, ok = "runc", true
	}
	if !ok {
		return "", fmt.Errorf("%w %q: install the OCI runtime and name it in the node's configuration, or use another RuntimeClass", ErrUnknownHandler, handler)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find OCI runtime %q: it is not installed (%w); on Debian and Ubuntu: apt-get install %s", name, err, filepath.Base(name))
	}
	return path, nil
}

// Expect gets the kernel ready for a Start.
func (d *Driver) Expect() { d.cgroups.Expect() }

// Start creates and starts a container.
func (d *Driver) Start(ctx context.Context, c *runtime.Container) (runtime.State, error) {
	if err := d.claim(c.ID); err != nil {
		return runtime.State{}, err
	}
	defer d.unclaim(c.ID)
	binary, err := d.binary(c.Handler)
	if err != nil {
		return runtime.State{}, fmt.Errorf("start container %q: %w", c.ID, err)
	}
	r, err := d.prepare(c, binary)
	if err != nil {
		os.RemoveAll(d.dir(c.ID))
		os.RemoveAll(d.bundle(c.ID))
		return runtime.State{}, fmt.Errorf("start container %q: %w", c.ID, err)
	}
	state, err := d.run(ctx, c, r)
	if err != nil {
		// The caller's end must not keep us from cleaning up.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
		defer cancel()
		if cleanErr := d.destroy(clean, r); cleanErr != nil {
			err = fmt.Errorf("%w; and cleaning up after it: %w", err, cleanErr)
		}
		return runtime.State{}, err
	}
	d.mu.Lock()
	d.known[c.ID] = r
	d.mu.Unlock()
	return r.state(state), nil
}

// claim makes this call the only one that works on an id that nobody has.
func (d *Driver) claim(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy[id] || d.known[id] != nil {
		return fmt.Errorf("start container %q: %w", id, fs.ErrExist)
	}
	d.busy[id] = true
	return nil
}

func (d *Driver) unclaim(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.busy, id)
}

// prepare writes what is to be known of a container.
func (d *Driver) prepare(c *runtime.Container, binary string) (*record, error) {
	spec, err := d.specs.Spec(c)
	if err != nil {
		return nil, err
	}
	r := &record{
		ID:      c.ID,
		PodUID:  c.PodUID,
		Labels:  c.Labels,
		Runtime: binary,
		Cgroup:  spec.Linux.CgroupsPath,
		LogPath: c.LogPath,
		Stdin:   c.Stdin,
		TTY:     c.TTY,
		OwnPIDs: c.Namespaces.PID == "",
	}
	file, text := bundleName, []byte(nil)
	if binary == Builtin {
		launcher, err := d.launcher()
		if err != nil {
			return nil, err
		}
		if r.prepared, err = launcher.Prepare(c.ID, spec); err != nil {
			return nil, err
		}
		file, text = doorName, r.prepared.Door()
	} else if text, err = json.Marshal(spec); err != nil {
		return nil, err
	}
	if c.LogPath != "" {
		if err := os.MkdirAll(filepath.Dir(c.LogPath), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(d.dir(c.ID), 0o711); err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.bundle(c.ID), 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(d.bundle(c.ID), file), text, 0o600); err != nil {
		return nil, err
	}
	return r, writeJSON(filepath.Join(d.dir(c.ID), recordName), r)
}

// run starts a container that was prepared.
func (d *Driver) run(ctx context.Context, c *runtime.Container, r *record) (protocol.State, error) {
	if r.Runtime != Builtin {
		return d.runOCI(ctx, c, r)
	}
	defer func() { r.prepared = nil }()
	return r.prepared.Start(ctx, launch.IO{LogPath: c.LogPath, Stdin: c.Stdin, StdinOnce: c.StdinOnce, PipeDir: d.bundle(c.ID)})
}

// runOCI has the shim run the OCI runtime.
func (d *Driver) runOCI(ctx context.Context, c *runtime.Container, r *record) (protocol.State, error) {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return protocol.State{}, fmt.Errorf("start container %q: %w", c.ID, ctx.Err())
	}
	release := d.cgroups.Use(r.Cgroup)
	defer release()
	start := protocol.Start{
		PIDFile:   pidName,
		LogPath:   c.LogPath,
		Stdin:     c.Stdin,
		StdinOnce: c.StdinOnce,
		OOMFile:   d.cgroups.OOMFile(r.Cgroup),
		Env:       runtimeEnv(r.Runtime),
	}
	if c.Namespaces.PID != "" {
		start.LeftoverFile = filepath.Join(d.cgroups.Dir("memory", r.Cgroup), "cgroup.procs")
	}
	if c.Namespaces.UserNS != nil {
		start.OwnerUID, start.OwnerGID = int(c.Namespaces.UserNS.HostID), int(c.Namespaces.UserNS.HostID)
	}
	arguments := []string{"run", "--detach", "--bundle", d.bundle(c.ID), "--pid-file", filepath.Join(d.dir(c.ID), pidName)}
	if c.TTY {
		start.Console = consoleName
		// Runtimes take a relative name from the bundle, or from where they run.
		if err := os.Symlink(filepath.Join("../..", protocol.ContainersDir, c.ID, consoleName), filepath.Join(d.bundle(c.ID), consoleName)); err != nil {
			return protocol.State{}, fmt.Errorf("start container %q: %w", c.ID, err)
		}
		arguments = append(arguments, "--console-socket", consoleName)
	}
	logPath := filepath.Join(d.dir(c.ID), logName)
	start.Command = append(d.runtimeCommand(r, logPath), append(arguments, c.ID)...)
	state, err := d.shim.Start(ctx, c.ID, start, startTimeout)
	if err != nil {
		return state, fmt.Errorf("start container %q: %w", c.ID, explain(err, logPath))
	}
	return state, nil
}

// runtimeCommand is how every call of the OCI runtime begins.
func (d *Driver) runtimeCommand(r *record, logPath string) []string {
	return []string{r.Runtime, "--root", d.stateDir(), "--log", logPath, "--log-format", "json"}
}

// runtimeEnv is the environment of the OCI runtime. runc lives too briefly for
// its garbage collector to be worth running; others may leave a monitor behind.
func runtimeEnv(binary string) []string {
	env := []string{"PATH=" + os.Getenv("PATH")}
	if isRunc(binary) {
		env = append(env, "GOGC=off")
	}
	return env
}

func isRunc(binary string) bool { return filepath.Base(binary) == "runc" }
