package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/librarylog"
	"github.com/gantryhq/gantry/internal/spread"
)

const (
	namespace       = "gantry"
	snapshotterName = "overlayfs"
	lockWait        = 1 * time.Second
)

// Config says where images are kept and how registries are reached.
type Config struct {
	DataDir string // images are kept under DataDir/images, roots mounted under DataDir/run/rootfs

	// Keychain answers for registries when a pull brings no keychain of its
	// own; nil means anonymous.
	Keychain Keychain
	// HostsDir may hold a directory per registry host with a hosts.toml
	// (containerd's format) that names mirrors or certificates. "" means
	// DataDir/registry-hosts. Registries on loopback addresses are reached by
	// plain HTTP, all others by HTTPS, unless a hosts.toml says otherwise.
	HostsDir string

	// File returns a file with the content of a repository of a registry that keeps it on
	// this machine and that has checked it. The file must not change; it may go. Layers are
	// then linked instead of being fetched. nil knows of none.
	File func(host, repository string, d digest.Digest) (path string, ok bool)

	Log *slog.Logger // nil means slog.Default()
}

// Keychain returns the credentials for a registry host as it is written in
// image names ("docker.io", "127.0.0.1:5000").
type Keychain func(host string) (user, password string, ok bool)

// Store holds the images of one machine. It is safe for concurrent use.
type Store struct {
	dir   string // DataDir/images
	roots string // DataDir/run/rootfs
	// mappedRoots is DataDir/run/rootfs-mapped. Others may pass through it, for root
	// in a user namespace is one of them; into roots nobody may: what a container
	// makes setuid there is the host's root.
	mappedRoots string
	hostsDir    string
	keychain    Keychain
	file        func(host, repository string, d digest.Digest) (string, bool)
	log         *slog.Logger
	client      *http.Client
	platform    platforms.MatchComparer

	bolt    *bolt.DB
	db      *metadata.DB
	content content.Store
	images  images.Store
	snaps   snapshots.Snapshotter
	leases  leases.Manager
	applier diff.Applier

	pulls     flights
	locks     keyedLock    // layers, blobs and container ids being worked on
	held      sync.Map     // chain id to []string: the layers of each hold in force
	holding   sync.RWMutex // read-locked while a root is made on a hold
	described sync.Map     // digest to *description; emptied by collect
	used      useTimes
	spare     spareRoots
	collector *collector
}

// Open opens or creates the store under cfg.DataDir. It refuses when another
// process has it open.
func Open(cfg Config) (*Store, error) {
	if cfg.DataDir == "" {
		return nil, errors.New("open image store: no data directory given")
	}
	s := &Store{
		dir:   filepath.Join(cfg.DataDir, "images"),
		roots: filepath.Join(cfg.DataDir, "run", "rootfs"),

		mappedRoots: filepath.Join(cfg.DataDir, "run", "rootfs-mapped"),

		hostsDir: cfg.HostsDir,
		keychain: cfg.Keychain,
		file:     cfg.File,
		log:      cfg.Log,
		client:   &http.Client{Transport: docker.DefaultHTTPTransport(nil)},
		platform: platforms.Only(platforms.DefaultSpec()),
	}
	if s.hostsDir == "" {
		s.hostsDir = filepath.Join(cfg.DataDir, "registry-hosts")
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("open image store %s: %w", s.dir, err)
	}
	return s, nil
}

func (s *Store) open() (err error) {
	s.spare.dir = filepath.Join(s.dir, "spare")
	if err := spread.MkdirAll(filepath.Join(s.dir, "roots"), 0o700); err != nil {
		return err
	}
	for _, dir := range []string{filepath.Join(s.dir, "trash"), s.spare.dir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := errors.Join(openVolatile(s.roots, 0o700), openVolatile(s.mappedRoots, 0o711)); err != nil {
		return err
	}
	path := filepath.Join(s.dir, "metadata.db")
	s.bolt, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return errors.New("another gantry serve has it open: stop it, or choose another --data-dir")
	}
	if errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch) {
		return hint.Wrap(fmt.Errorf("%s is damaged: %w", path, err),
			"move %s away and start again: images are pulled anew, what containers wrote to their roots is lost", s.dir)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.bolt.Close())
		}
	}()
	librarylog.Redirect(s.log)
	blobs, err := local.NewStore(filepath.Join(s.dir, "content"))
	if err != nil {
		return fmt.Errorf("open content: %w", err)
	}
	snaps, err := overlay.NewSnapshotter(filepath.Join(s.dir, "overlay"), overlay.AsynchronousRemove)
	if err != nil {
		return fmt.Errorf("open snapshots: %w", err)
	}
	s.db = metadata.NewDB(s.bolt, blobs, map[string]snapshots.Snapshotter{snapshotterName: snaps})
	ctx := s.context(context.Background())
	if err := s.db.Init(ctx); err != nil {
		return errors.Join(err, snaps.Close())
	}
	s.content = s.db.ContentStore()
	s.snaps = s.db.Snapshotter(snapshotterName)
	s.images = newRecords(metadata.NewImageStore(s.db))
	s.leases = metadata.NewLeaseManager(s.db)
	s.applier = apply.NewFileSystemApplier(s.content)
	if err := errors.Join(s.dropStaleLeases(ctx), s.dropUnfinishedRoots(), s.spare.load(), s.makePlaces()); err != nil {
		return errors.Join(err, snaps.Close())
	}
	s.collector = startCollector(s.collect, s.log)
	s.collector.kick()
	return nil
}

// Close stops background collection and releases the database. Mounted root
// directories stay: containers outlive the process.
func (s *Store) Close() error {
	s.collector.stop()
	return errors.Join(s.snaps.Close(), s.bolt.Close())
}

// dropStaleLeases ends the leases of a former process: only one can have the
// database open, so none of them protects work that still goes on.
func (s *Store) dropStaleLeases(ctx context.Context) error {
	stale, err := s.leases.List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, l := range stale {
		if err := s.leases.Delete(ctx, l); err != nil {
			return fmt.Errorf("end lease %s: %w", l.ID, err)
		}
	}
	return nil
}

// lease protects everything created with the returned context from collection
// until done is called.
func (s *Store) lease(ctx context.Context) (leased context.Context, done func(), err error) {
	l, err := s.leases.Create(ctx, leases.WithRandomID())
	if err != nil {
		return nil, nil, fmt.Errorf("create lease: %w", err)
	}
	done = func() {
		if err := s.leases.Delete(context.WithoutCancel(ctx), l); err != nil {
			s.log.Warn("end image lease", "lease", l.ID, "err", err)
		}
		s.collector.kick()
	}
	return leases.WithLease(ctx, l.ID), done, nil
}

// context gives containerd's libraries the namespace they ask for and a logger
// that ends in ours.
func (s *Store) context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(log.WithLogger(ctx, librarylog.Entry(s.log)), namespace)
}

// platformName is what messages call the platform this store unpacks for.
func platformName() string { return platforms.Format(platforms.DefaultSpec()) }

func parseDigest(s string) (digest.Digest, bool) {
	d, err := digest.Parse(s)
	return d, err == nil
}
