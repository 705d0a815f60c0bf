package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/engine/network"
	driver "github.com/gantryhq/gantry/engine/node/runtime"
)

// Config is what a node needs. The zero value of an optional field means the
// default that its comment names.
type Config struct {
	Client   *rest.Config // identity system:node:<NodeName>
	DataDir  string
	NodeName string
	NodeIP   netip.Addr // address other machines reach this one by

	Driver  driver.Driver
	Images  Images
	Network Network

	Handlers       []string // RuntimeClass handlers the driver knows
	DefaultHandler string   // of pods without a RuntimeClass; "runc"

	ClusterDomain string            // "cluster.local"
	Labels        map[string]string // further labels of the Node object
	MaxPods       int               // 500
	Version       string            // Gantry's version, for the Node object

	// DiskFree is how much of the file system of DataDir must stay free. Below
	// it pods are evicted; below twice as much unused images are removed.
	DiskFree Threshold // 5 % or 2 GiB, whichever is less
	// UnsafeSysctls are patterns ("kernel.msg*") allowed besides the safe set.
	UnsafeSysctls []string

	// Admit says whether a container of a pod may start from an image ("sha256:..." is its digest):
	// nil, or an error that explains why not. It is asked before each start and again, in growing
	// steps, after a refusal. nil admits everything.
	Admit func(ctx context.Context, pod *v1.Pod, image, digest string) error

	// ExtrasNamespace is the one whose pods may carry [ExtrasAnnotation]: who may make pods
	// there must be as good as root on this machine. "" is none.
	ExtrasNamespace string

	// BeforeLogsGo is called with the path of a pod's log directory, or of one file, before the node removes it,
	// and waited for. nil is nobody.
	BeforeLogsGo func(path string)

	Log *slog.Logger // slog.Default()
}

// Threshold is the smaller of a share of the whole and an absolute amount.
type Threshold struct {
	Percent int
	Bytes   uint64
}

func (t Threshold) of(total uint64) uint64 { return min(total/100*uint64(t.Percent), t.Bytes) }

// Images is the part of [image.Store] that the node uses.
type Images interface {
	Pull(ctx context.Context, ref string, opt image.PullOptions) (*image.Image, error)
	Get(ctx context.Context, ref string) (*image.Image, error) // fs.ErrNotExist
	List(ctx context.Context) ([]*image.Image, error)
	Mount(ctx context.Context, containerID, ref string, targets []string) (rootfs string, err error)
	MountMapped(ctx context.Context, containerID, ref string, targets []string, m image.IDMapping) (rootfs string, err error)
	MountKept(ctx context.Context, containerID, name string) (rootfs string, err error)
	MountReadOnly(ctx context.Context, id, ref string) (path string, err error)
	Unmount(ctx context.Context, id string) error
	Roots(ctx context.Context) ([]image.Root, error)
	Written(name string) string
	GC(ctx context.Context, inUse func(digest.Digest) bool, opts ...image.GCOption) (image.Freed, error)
}

var _ Images = (*image.Store)(nil)

// Network is the part of [network.Network] that the node uses.
type Network interface {
	Attach(ctx context.Context, pod network.Pod) (network.Attachment, error)
	Detach(ctx context.Context, podUID string) error
	DNS() netip.Addr // the cluster DNS service
	// Withdrawn tells when services send no new connections to an address any more.
	Withdrawn(ip netip.Addr) (gone <-chan struct{}, offered bool)
	// Clients counts the connections that other processes of the host have to it.
	Clients(ip netip.Addr) (int, error)
	// Traffic tells what went between workloads and services.
	Traffic() ([]network.Traffic, error)
}

var _ Network = (*network.Network)(nil)

func (c *Config) complete() error {
	switch {
	case c.Client == nil:
		return errors.New("node needs a client of the API")
	case c.Driver == nil || c.Images == nil || c.Network == nil:
		return errors.New("node needs a runtime driver, an image store and a network")
	case c.NodeName == "":
		return errors.New("node needs a name")
	case !c.NodeIP.IsValid():
		return errors.New("node needs its address")
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil || c.DataDir == "" {
		return fmt.Errorf("node needs a data directory, got %q: %w", c.DataDir, err)
	}
	c.DataDir = dir
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.MaxPods == 0 {
		c.MaxPods = 500
	}
	if c.DefaultHandler == "" {
		c.DefaultHandler = "runc"
	}
	if !slices.Contains(c.Handlers, c.DefaultHandler) {
		c.Handlers = append(slices.Clone(c.Handlers), c.DefaultHandler)
	}
	if c.DiskFree == (Threshold{}) {
		c.DiskFree = Threshold{Percent: 5, Bytes: 2 << 30}
	}
	if c.BeforeLogsGo == nil {
		c.BeforeLogsGo = func(string) {}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return nil
}

// heavyWork bounds how many containers are created at once.
func heavyWork() int { return 2 * runtime.NumCPU() }

const (
	leaseDuration   = 40 * time.Second
	leaseEvery      = 10 * time.Second
	nodeStatusEvery = 5 * time.Minute
	pressureEvery   = 10 * time.Second
)
