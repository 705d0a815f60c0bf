package image

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
)

const (
	upperName  = "upper"     // what the container wrote
	workName   = "work"      // the kernel's
	recordName = "root.json" // written last: a directory without it is nothing

	labelRoot  = "containerd.io/gc.root" // collection treats what carries it as in use
	holdPrefix = "hold-"                 // names the snapshot that keeps a chain of layers
)

var validID = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,127}$`)

// rootRecord is root.json in the directory of a container's writable layer.
type rootRecord struct {
	ImageDigest string    `json:"imageDigest"` // Image.Digest
	ChainID     string    `json:"chainID"`     // of the layers below
	ReadOnly    bool      `json:"readOnly,omitempty"`
	Places      string    `json:"places,omitempty"` // set of places for mounts; "" is none
	CreatedAt   time.Time `json:"createdAt"`
}

var errNoRoot = errors.New("no root")

func (s *Store) rootDir(id string) string { return filepath.Join(s.dir, "roots", id) }

// readRoot returns errNoRoot when dir is not there, or was not finished.
func readRoot(dir string) (r rootRecord, err error) {
	blob, err := os.ReadFile(filepath.Join(dir, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return r, errNoRoot
	}
	if err != nil {
		return r, err
	}
	// A record that the machine lost power over is as good as none.
	if err := json.Unmarshal(blob, &r); err != nil {
		return r, errNoRoot
	}
	return r, nil
}

func (r rootRecord) write(dir string) error {
	blob, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, recordName), blob, 0o600)
}

// discard makes a root's directory nobody's: it becomes a spare, or the collector
// deletes the files.
func (s *Store) discard(id string) error {
	kept, left, err := s.spare.put(s.rootDir(id))
	if !kept && err == nil {
		var unique [8]byte
		_, _ = rand.Read(unique[:]) // never fails
		err = os.Rename(left, filepath.Join(s.dir, "trash", fmt.Sprintf("%s-%x", id, unique)))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		s.collector.kick()
	}
	return err
}

// emptyTrash deletes what discard left.
func (s *Store) emptyTrash() error {
	dir := filepath.Join(s.dir, "trash")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// dropUnfinishedRoots deletes roots that a former process had begun to make.
func (s *Store) dropUnfinishedRoots() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "roots"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, readErr := readRoot(s.rootDir(e.Name())); errors.Is(readErr, errNoRoot) {
			err = errors.Join(err, os.RemoveAll(s.rootDir(e.Name())))
		}
	}
	return errors.Join(err, dropMappedLayers(s.mappedRoots))
}

// hold keeps a chain of layers from collection while roots stand on it, and
// returns the layers' directories, topmost first. The caller has s.holding
// locked for reading. One hold serves all roots on the same layers.
func (s *Store) hold(ctx context.Context, chainID string, img func() (*Image, error)) ([]string, error) {
	key := holdPrefix + chainID
	if err := s.locks.Lock(ctx, key); err != nil {
		return nil, err
	}
	defer s.locks.Unlock(key)
	if layers, ok := s.held.Load(chainID); ok {
		return layers.([]string), nil
	}
	mounts, err := s.snaps.Mounts(ctx, key)
	if errdefs.IsNotFound(err) {
		mounts, err = s.view(ctx, key, chainID, img)
	}
	if err != nil {
		return nil, fmt.Errorf("hold layers: %w", err)
	}
	layers, err := layersOf(mounts)
	if err != nil {
		return nil, fmt.Errorf("hold layers %s: %w", chainID, err)
	}
	s.held.Store(chainID, layers)
	return layers, nil
}

// view makes the snapshot that holds a chain. It is a root for collection from
// the moment it exists.
func (s *Store) view(ctx context.Context, key, chainID string, img func() (*Image, error)) ([]mount.Mount, error) {
	label := snapshots.WithLabels(map[string]string{labelRoot: time.Now().UTC().Format(time.RFC3339)})
	mounts, err := s.snaps.View(ctx, key, chainID, label)
	if !errdefs.IsNotFound(err) {
		return mounts, err
	}
	// The content is here, the unpacked layers are not.
	from, err := img()
	if err != nil {
		return nil, err
	}
	if err := s.unpackAgain(ctx, from); err != nil {
		return nil, err
	}
	return s.snaps.View(ctx, key, chainID, label)
}

func (s *Store) unpackAgain(ctx context.Context, img *Image) error {
	ctx, done, err := s.lease(ctx)
	if err != nil {
		return err
	}
	defer done()
	meter := newMeter(img.Name, func(Progress) {})
	defer meter.stop()
	if err := s.unpackTree(ctx, s.children(), meter, img.target); err != nil {
		return fmt.Errorf("unpack image %q again: %w", img.Name, err)
	}
	return nil
}

// layersOf reads the layers' directories out of how a view would be mounted:
// a bind mount of the only one, or an overlay.
func layersOf(mounts []mount.Mount) ([]string, error) {
	if len(mounts) == 1 && mounts[0].Type == "bind" {
		return []string{mounts[0].Source}, nil
	}
	if len(mounts) == 1 && mounts[0].Type == "overlay" {
		for _, o := range mounts[0].Options {
			if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
				return strings.Split(dirs, ":"), nil
			}
		}
	}
	return nil, fmt.Errorf("the snapshotter gave an unknown mount %v", mounts)
}

// releaseHolds ends the holds that no root needs any more.
func (s *Store) releaseHolds(ctx context.Context) error {
	s.holding.Lock()
	defer s.holding.Unlock()
	roots, err := s.rootRecords()
	if err != nil {
		return err
	}
	needed := map[string]bool{}
	for _, r := range roots {
		needed[holdPrefix+r.ChainID] = true
	}
	var stale []string
	err = s.snaps.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if strings.HasPrefix(info.Name, holdPrefix) && !needed[info.Name] {
			stale = append(stale, info.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list holds: %w", err)
	}
	for _, key := range stale {
		s.held.Delete(strings.TrimPrefix(key, holdPrefix))
		if err := s.snaps.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("release hold: %w", err)
		}
	}
	return nil
}

// Root is a container's root directory as the store knows it.
type Root struct {
	ID          string // container id
	ImageDigest string // Image.Digest it was made from
	Path        string // where it is, or will be, mounted
	CreatedAt   time.Time
}

// Roots lists what Mount and MountReadOnly made and Unmount has not removed,
// so that the caller can remove what belongs to no container any more.
func (s *Store) Roots(context.Context) ([]Root, error) {
	records, err := s.rootRecords()
	if err != nil {
		return nil, fmt.Errorf("list roots: %w", err)
	}
	roots := make([]Root, 0, len(records))
	for id, r := range records {
		roots = append(roots, Root{ID: id, ImageDigest: r.ImageDigest, Path: filepath.Join(s.roots, id), CreatedAt: r.CreatedAt})
	}
	slices.SortFunc(roots, func(a, b Root) int { return strings.Compare(a.ID, b.ID) })
	return roots, nil
}

func (s *Store) rootRecords() (map[string]rootRecord, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "roots"))
	if err != nil {
		return nil, err
	}
	records := make(map[string]rootRecord, len(entries))
	for _, e := range entries {
		r, err := readRoot(s.rootDir(e.Name()))
		if errors.Is(err, errNoRoot) {
			continue
		}
		if err != nil {
			return nil, err
		}
		records[e.Name()] = r
	}
	return records, nil
}

// digestsInUse are the images that have a root.
func (s *Store) digestsInUse(ctx context.Context) (map[digest.Digest]bool, error) {
	roots, err := s.Roots(ctx)
	if err != nil {
		return nil, err
	}
	used := make(map[digest.Digest]bool, len(roots))
	for _, r := range roots {
		used[digest.Digest(r.ImageDigest)] = true
	}
	return used, nil
}
