package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	ctdsnapshots "github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/moby/buildkit/cache/remotecache"
	inlinecache "github.com/moby/buildkit/cache/remotecache/inline"
	localcache "github.com/moby/buildkit/cache/remotecache/local"
	registrycache "github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/util/network/cniprovider"
	"github.com/moby/buildkit/util/network/netproviders"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/runc"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/gantryhq/gantry/internal/librarylog"
	"github.com/gantryhq/gantry/services/build/sandbox"
)

// WorkerConfig says where a worker works.
type WorkerConfig struct {
	DataDir string // cache under DataDir/build, socket under DataDir/run

	IdleTimeout   time.Duration // the worker ends after so long without a build; 0 means 5 minutes
	MaxCacheBytes int64         // 0 means 10 GB

	// Uplinks are the network interfaces through which build steps reach the
	// outside; nil means those of the machine's default routes.
	Uplinks []string
	// MemoryBytes bounds all steps together; 0 means three quarters of the machine's.
	MemoryBytes int64

	Log *slog.Logger // nil means slog.Default()
}

const (
	defaultIdle     = 5 * time.Minute
	defaultMaxCache = 10 << 30
	stopPatience    = 10 * time.Second
	keptHistory     = 10 // finished builds that BuildKit remembers

	// minFreePercent of the disk is what pruning tries to leave to others.
	minFreePercent = 5
)

// paths are the worker's files, known to client and worker.
type paths struct{ dir, tmp, socket, lock, log string }

func pathsOf(dataDir string) paths {
	dir := filepath.Join(dataDir, "build")
	return paths{
		dir:    dir,
		tmp:    filepath.Join(dir, "worker-tmp"),
		socket: filepath.Join(dataDir, "run", "build.sock"),
		lock:   filepath.Join(dir, "worker.lock"),
		log:    filepath.Join(dir, "worker.log"),
	}
}

// Worker serves builds on DataDir/run/build.sock until ctx ends or nobody has
// built for a while. When another worker already serves the directory it
// returns nil at once. Call it from a process of its own: it starts runc, and
// BuildKit keeps process-wide state.
func Worker(ctx context.Context, cfg WorkerConfig) error {
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = defaultIdle
	}
	if cfg.MaxCacheBytes == 0 {
		cfg.MaxCacheBytes = defaultMaxCache
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	librarylog.Redirect(cfg.Log)
	abs, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return fmt.Errorf("start build worker: %w", err)
	}
	cfg.DataDir = abs
	p := pathsOf(abs)
	for _, dir := range []string{p.dir, filepath.Dir(p.socket)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("start build worker: %w", err)
		}
	}
	unlock, err := lockDir(p.lock)
	if errors.Is(err, errLocked) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("start build worker: %w", err)
	}
	defer unlock()
	if err := removeLeftovers(abs); err != nil {
		return fmt.Errorf("start build worker: clean up after the last one: %w", err)
	}
	dropped, err := beginUse(p)
	if err != nil {
		return fmt.Errorf("start build worker: %w", err)
	}
	if dropped {
		cfg.Log.Warn("the machine crashed while builds used their cache: the cache was emptied", "dir", p.dir)
	}
	// BuildKit mounts secrets on directories for temporary files: they belong
	// where the next worker finds them if this one is killed.
	if err := errors.Join(os.MkdirAll(p.tmp, 0o700), os.Setenv("TMPDIR", p.tmp)); err != nil {
		return fmt.Errorf("start build worker: %w", err)
	}
	full, err := serve(ctx, cfg, p)
	if full {
		cfg.Log.Warn("the disk is full: the build cache is given up", "dir", p.dir)
		err = errors.Join(err, removeCache(p))
	}
	if err := errors.Join(err, endUse(p)); err != nil {
		return fmt.Errorf("build worker: %w", err)
	}
	return nil
}

// serve answers clients. Full tells that it ended because the disk is full.
func serve(ctx context.Context, cfg WorkerConfig, p paths) (full bool, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	steps, err := sandbox.New(sandbox.Config{
		Name: cgroupParent(cfg.DataDir), Layers: p.dir, Uplinks: cfg.Uplinks, Memory: cfg.MemoryBytes, Log: cfg.Log,
	})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, steps.Close()) }()
	controller, err := newController(ctx, cfg, p, steps)
	if err != nil {
		return isFull(p.dir), err
	}
	guard := &fullGuard{dir: p.dir, stop: stop}
	idle := newIdleTimer(cfg.IdleTimeout, stop)
	server := grpc.NewServer(
		grpc.StatsHandler(idle),
		grpc.UnaryInterceptor(guard.unary(grpcerrors.UnaryServerInterceptor)),
		grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
	)
	controller.Register(server)

	// We hold the lock: a socket that exists is a leftover.
	if err := os.Remove(p.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, errors.Join(err, controller.Close())
	}
	listener, err := listenPrivately(p.socket)
	if err != nil {
		return false, errors.Join(err, controller.Close())
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err = <-served:
	case <-ctx.Done():
		// New clients find no socket and start the next worker, which waits
		// for our lock.
		force := time.AfterFunc(stopPatience, server.Stop)
		server.GracefulStop()
		force.Stop()
	}
	return guard.full.Load(), errors.Join(err, controller.Close())
}

// listenPrivately makes a socket that only its owner can open.
func listenPrivately(path string) (net.Listener, error) {
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	return net.Listen("unix", path)
}

// newController puts BuildKit together.
func newController(ctx context.Context, cfg WorkerConfig, p paths, steps *sandbox.Sandbox) (*control.Controller, error) {
	w, err := newOCIWorker(ctx, cfg, p, steps)
	if err != nil {
		return nil, err
	}
	workers := &worker.Controller{}
	if err := workers.Add(w); err != nil {
		return nil, err
	}
	sessions, err := session.NewManager()
	if err != nil {
		return nil, err
	}
	custom, err := gateway.NewGatewayFrontend(workers.Infos(), nil)
	if err != nil {
		return nil, err
	}
	cache, err := bboltcachestorage.NewStore(filepath.Join(p.dir, "cache.db"))
	if err != nil {
		return nil, fmt.Errorf("open build cache: %w", err)
	}
	history, err := boltutil.SafeOpen(filepath.Join(p.dir, "history.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("open build history: %w", err)
	}
	kept := int64(keptHistory)
	hosts := registryHosts()
	return control.NewController(control.Opt{
		SessionManager:   sessions,
		WorkerController: workers,
		Frontends: map[string]frontend.Frontend{
			"dockerfile.v0": forwarder.NewGatewayForwarder(workers.Infos(), dockerfile.Build),
			"gateway.v0":    custom,
		},
		CacheManager:   solver.NewCacheManager(ctx, "local", cache, worker.NewCacheResultStorage(workers)),
		HistoryDB:      history,
		CacheStore:     cache,
		LeaseManager:   w.LeaseManager(),
		ContentStore:   w.ContentStore(),
		HistoryConfig:  &config.HistoryConfig{MaxEntries: &kept},
		GarbageCollect: w.GarbageCollect,
		GracefulStop:   ctx.Done(),
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{
			"inline": inlinecache.ResolveCacheExporterFunc(), "local": localcache.ResolveCacheExporterFunc(sessions),
			"registry": registrycache.ResolveCacheExporterFunc(sessions, hosts),
		},
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{
			"local": localcache.ResolveCacheImporterFunc(sessions), "registry": registrycache.ResolveCacheImporterFunc(sessions, w.ContentStore(), hosts),
		},
	})
}

// registryHosts asks registries of this machine by HTTP, others by HTTPS.
func registryHosts() docker.RegistryHosts { return resolver.NewRegistryConfig(nil) }

// newOCIWorker is the part of BuildKit that runs steps, with runc in the sandbox,
// and keeps their results.
func newOCIWorker(ctx context.Context, cfg WorkerConfig, p paths, steps *sandbox.Sandbox) (*base.Worker, error) {
	opt, err := runc.NewWorkerOpt(p.dir, snapshotter(p.dir, cfg.Log), false, oci.ProcessSandbox, nil, nil,
		netproviders.Opt{Mode: "host", CNI: cniprovider.Opt{Root: p.dir}},
		nil, "", "", false, nil, "", cgroupParent(cfg.DataDir), nil)
	if err != nil {
		return nil, fmt.Errorf("prepare runc: %w", err)
	}
	if opt.ProxyProvider != nil {
		if err := opt.ProxyProvider.Close(); err != nil {
			return nil, fmt.Errorf("prepare runc: %w", err)
		}
		opt.ProxyProvider = nil
	}
	// Nothing runs outside of the sandbox.
	opt.NetworkProviders = steps.Networks()
	if opt.Executor, err = steps.Executor(opt.ResourceMonitor); err != nil {
		return nil, fmt.Errorf("prepare runc: %w", err)
	}
	opt.GCPolicy = gcPolicy(cfg.MaxCacheBytes, p.dir)
	opt.RegistryHosts = registryHosts()
	w, err := base.NewWorker(ctx, opt)
	if err != nil {
		return nil, fmt.Errorf("open build state: %w", err)
	}
	if err := confineSources(w, steps); err != nil {
		return nil, fmt.Errorf("open build state: %w", err)
	}
	return w, nil
}

// snapshotter is overlay where the file system can, else plain copies.
func snapshotter(dir string, log *slog.Logger) runc.SnapshotterFactory {
	if err := overlayutils.Supported(dir); err != nil {
		log.Warn("builds copy files instead of using overlay mounts, which is slow", "dir", dir, "err", err)
		return runc.SnapshotterFactory{Name: "native", New: native.NewSnapshotter}
	}
	return runc.SnapshotterFactory{Name: "overlayfs", New: func(root string) (ctdsnapshots.Snapshotter, error) {
		return overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
	}}
}

// gcPolicy drops what is cheap to get again first (contexts, downloads, cache
// mounts of two days ago), then the rest, until the cache fits.
func gcPolicy(maxBytes int64, dir string) []client.PruneInfo {
	var st unix.Statfs_t
	minFree := int64(0)
	if err := unix.Statfs(dir, &st); err == nil {
		minFree = int64(st.Blocks) * st.Bsize / 100 * minFreePercent
	}
	return []client.PruneInfo{
		{
			Filter:       []string{"type==source.local,type==exec.cachemount,type==source.git.checkout"},
			KeepDuration: 48 * time.Hour,
			MaxUsedSpace: maxBytes / 10,
		},
		{KeepDuration: 60 * 24 * time.Hour, MaxUsedSpace: maxBytes, MinFreeSpace: minFree},
		{MaxUsedSpace: maxBytes, MinFreeSpace: minFree},
		{All: true, MaxUsedSpace: maxBytes, MinFreeSpace: minFree},
	}
}

var errLocked = errors.New("locked by another process")

// lockDir takes the lock file at path and writes our process id into it.
func lockDir(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil // closing releases the lock
}
