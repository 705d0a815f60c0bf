package image

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	continuityfs "github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

// Usage is how full the images' file system is.
type Usage struct {
	Path            string // what the numbers are of
	CapacityBytes   int64
	AvailableBytes  int64 // for ordinary users, as df shows it
	CapacityInodes  int64
	AvailableInodes int64
	ImageBytes      int64 // content and unpacked layers, without containers' writable ones
	ImageInodes     int64
	At              time.Time
}

// FSUsage measures the file system that holds the images. The share of the
// images comes from records made when they were unpacked, so it is cheap.
func (s *Store) FSUsage(ctx context.Context) (Usage, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return Usage{}, fmt.Errorf("measure %s: %w", s.dir, err)
	}
	u := Usage{
		Path:            s.dir,
		CapacityBytes:   int64(st.Blocks) * st.Bsize,
		AvailableBytes:  int64(st.Bavail) * st.Bsize,
		CapacityInodes:  int64(st.Files),
		AvailableInodes: int64(st.Ffree),
		At:              time.Now(),
	}
	ctx = s.context(ctx)
	err := s.content.Walk(ctx, func(info content.Info) error {
		u.ImageBytes += info.Size
		u.ImageInodes++
		return nil
	})
	if err != nil {
		return Usage{}, fmt.Errorf("measure image content: %w", err)
	}
	var layers []string
	err = s.snaps.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindCommitted {
			layers = append(layers, info.Name)
		}
		return nil
	})
	if err != nil {
		return Usage{}, fmt.Errorf("measure image layers: %w", err)
	}
	for _, name := range layers {
		// A layer that was collected in between counts for nothing.
		if l, err := s.snaps.Usage(ctx, name); err == nil {
			u.ImageBytes += l.Size
			u.ImageInodes += l.Inodes
		}
	}
	return u, nil
}

// RootUsage measures what a container wrote into its root directory. It walks
// the files: the cost grows with their number.
func (s *Store) RootUsage(ctx context.Context, containerID string) (bytes, inodes int64, err error) {
	u, err := continuityfs.DiskUsage(ctx, filepath.Join(s.rootDir(containerID), upperName))
	if err != nil {
		return 0, 0, fmt.Errorf("measure root of %s: %w", containerID, err)
	}
	return u.Size, u.Inodes, nil
}
