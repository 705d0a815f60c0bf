package sandbox

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/executor/resources"
	"github.com/moby/buildkit/executor/runcexecutor"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/network"
	"golang.org/x/sys/unix"
)

// Config says how steps are confined.
type Config struct {
	// Name is unique on this machine and ends in "-" and eight hexadecimal digits.
	Name string
	// Uplinks are the network interfaces through which steps reach the outside; nil
	// means those that default routes go through.
	Uplinks []string
	// Memory in bytes and Processes bound all steps together; 0 means three quarters
	// of the machine's memory, and 8192.
	Memory, Processes int64
	// Layers is a directory on the file system that has the images' layers. What steps
	// write there may be lost or damaged when the machine crashes, until syncfs(2):
	// after a crash the caller must not use it.
	Layers string
	Log    *slog.Logger
}

// Sandbox is where steps run. It is safe for concurrent use.
type Sandbox struct {
	cfg  Config
	dir  string // /run/NAME
	ids  *idMap // nil without a user namespace
	net  *provider
	none network.Provider
}

// New prepares the kernel. The caller has made sure that no other process uses the
// name, and has called [Remove].
func New(cfg Config) (*Sandbox, error) {
	s := &Sandbox{cfg: cfg, dir: runDir(cfg.Name)}
	// Others pass through on the way to a step's root, which is nobody's but its.
	for _, dir := range []string{s.dir, s.views()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("prepare sandbox: %w", err)
		}
	}
	var err error
	if s.ids, err = newIDMap(cfg.Layers, s.views()); err != nil {
		cfg.Log.Warn("build steps run without a user namespace", "err", err)
	}
	if err := limit(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("limit what builds use: %w", err), s.Close())
	}
	if s.net, err = newProvider(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the network of builds: %w", err), s.Close())
	}
	s.none = network.NewNoneProvider()
	return s, nil
}

func runDir(name string) string { return filepath.Join("/run", name) }

func (s *Sandbox) views() string { return filepath.Join(s.dir, "views") }

// Networks are what a step may have: the outside, or nothing. The host's is not
// among them.
func (s *Sandbox) Networks() map[pb.NetMode]network.Provider {
	return map[pb.NetMode]network.Provider{
		pb.NetMode_UNSET: confined{s.net, s.ids},
		pb.NetMode_NONE:  confined{s.none, s.ids},
	}
}

// Executor runs steps.
func (s *Sandbox) Executor(monitor *resources.Monitor) (executor.Executor, error) {
	opt := runcexecutor.Opt{
		Root: filepath.Join(s.dir, "executor"), ProcessMode: oci.ProcessSandbox,
		DefaultCgroupParent: s.cfg.Name, ResourceMonitor: monitor,
	}
	if s.ids != nil {
		opt.IdentityMapping = s.ids.mapping()
	}
	inner, err := runcexecutor.New(opt, s.Networks())
	if err != nil || s.ids == nil {
		return inner, err
	}
	return mappedExecutor{inner, s.ids}, nil
}

// Close removes what New made. No step runs any more.
func (s *Sandbox) Close() error {
	if s.ids != nil {
		s.ids.close()
	}
	if s.net != nil {
		s.net.close()
	}
	return Remove(s.cfg.Name)
}

// Remove takes everything of a name out of the kernel, when no process uses it any
// more: mounts, interfaces, the nftables table, control groups of ended steps, files
// below /run. What is not there is no error.
func Remove(name string) error {
	errs := []error{
		unmountBelow(runDir(name)), removeInterfaces(name), removeTable(name),
	}
	removeStates(name)
	removeGroups(name)
	errs = append(errs, os.RemoveAll(runDir(name)))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up after builds: %w", err)
	}
	return nil
}

// hash is the end of a name, for where a whole name is too long.
func hash(name string) string { return name[strings.LastIndexByte(name, '-')+1:] }

// unmountBelow unmounts everything at or below dir.
func unmountBelow(dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", mounts[i], err)
		}
	}
	return nil
}
