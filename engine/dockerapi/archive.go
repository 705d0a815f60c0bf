package dockerapi

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	continuityfs "github.com/containerd/continuity/fs"
	types "github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/image"
)

// withRoot calls use with a container's files: as its processes see them while it runs,
// volumes included, else its kept root. Nothing in it may be opened but with openBelow.
func (s *Server) withRoot(ctx context.Context, c *container, use func(root string) error) error {
	r := s.recordOf(c)
	if s.current(c).running() {
		if pid := s.cfg.Machine.PID(ctx, Namespace, r.Pod); pid != 0 {
			root := fmt.Sprintf("/proc/%d/root", pid)
			ours, err := os.Stat("/")
			if err != nil {
				return err
			}
			// Should the process have ended meanwhile, its number may be another's.
			if theirs, err := os.Stat(root + "/."); err != nil || os.SameFile(ours, theirs) {
				return conflict("container %s has just ended", r.Name)
			}
			return use(root)
		}
	}
	return s.cfg.Images.WithKept(ctx, image.KeptName(Namespace, r.ID), use)
}

// place is a path of a container: below a volume of one that does not run it is the
// volume's directory.
func (s *Server) place(c *container, root, name string) (string, string) {
	name = cleanPath(name)
	if s.current(c).running() {
		return root, name
	}
	best := -1
	r := s.recordOf(c)
	for i, m := range r.Mounts {
		within := name == m.Destination || strings.HasPrefix(name, m.Destination+"/")
		if within && m.Source != "" && (best < 0 || len(m.Destination) > len(r.Mounts[best].Destination)) {
			best = i
		}
	}
	if best < 0 {
		return root, name
	}
	return r.Mounts[best].Source, cleanPath(strings.TrimPrefix(name, r.Mounts[best].Destination))
}

// statPath describes a path without following a link that it ends in.
func statPath(root, name string) (os.FileInfo, types.PathStat, error) {
	dir, err := openBelowWith(root, path.Dir(name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, types.PathStat{}, err
	}
	defer dir.Close()
	at := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), path.Base(name))
	if name == "/" {
		at = fmt.Sprintf("/proc/self/fd/%d/.", dir.Fd())
	}
	info, err := os.Lstat(at)
	if err != nil {
		return nil, types.PathStat{}, err
	}
	stat := types.PathStat{Name: path.Base(name), Size: info.Size(), Mode: info.Mode(), Mtime: info.ModTime()}
	if info.Mode()&fs.ModeSymlink != 0 {
		if to, err := os.Readlink(at); err == nil {
			if !path.IsAbs(to) {
				to = path.Join(path.Dir(name), to)
			}
			stat.LinkTarget = cleanPath(to)
		}
	}
	return info, stat, nil
}

const statHeader = "X-Docker-Container-Path-Stat"

func (s *Server) archiveStat(w http.ResponseWriter, root, name, asked string) (os.FileInfo, error) {
	info, stat, err := statPath(root, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, notFound("Could not find the file %s in container", asked)
	}
	if err != nil {
		return nil, err
	}
	if name == "/" && asked != "/" {
		stat.Name = path.Base(cleanPath(asked))
	}
	blob, err := json.Marshal(stat)
	if err != nil {
		return nil, err
	}
	w.Header().Set(statHeader, base64.StdEncoding.EncodeToString(blob))
	return info, nil
}

func (s *Server) serveArchiveHead(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.withRoot(r.Context(), c, func(root string) error {
		asked := r.FormValue("path")
		root, name := s.place(c, root, asked)
		if _, err := s.archiveStat(w, root, name, asked); err != nil {
			return err
		}
		w.WriteHeader(http.StatusOK)
		return nil
	})
}

// serveArchiveGet sends a path of a container as a tar archive.
func (s *Server) serveArchiveGet(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	asked := r.FormValue("path")
	if asked == "" {
		return invalid("missing parameter: path")
	}
	return s.withRoot(r.Context(), c, func(root string) error {
		root, name := s.place(c, root, asked)
		if _, err := s.archiveStat(w, root, name, asked); err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/x-tar")
		base := path.Base(cleanPath(asked))
		if strings.HasSuffix(asked, "/.") {
			base = "."
		}
		return sendTree(w, root, name, base)
	})
}

func (s *Server) serveExport(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.cfg.Images.WithKept(r.Context(), image.KeptName(Namespace, s.recordOf(c).ID), func(root string) error {
		w.Header().Set("Content-Type", "application/x-tar")
		return sendTree(w, root, "/", ".")
	})
}

// sendTree writes a file or a directory as an archive in which it is called base. The
// files are opened below the directory they are in: a process of the container that puts
// links in the way while they are read leads nowhere else. The head of the answer is out
// by then: an error cuts the connection.
func sendTree(w io.Writer, root, name, base string) error {
	dir, err := openBelowWith(root, path.Dir(name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	top, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d/.", dir.Fd()))
	if err != nil {
		return err
	}
	defer top.Close()
	start := "."
	if name != "/" {
		start = path.Base(name)
	}
	out := tar.NewWriter(w)
	links := map[[2]uint64]string{}
	err = fs.WalkDir(top.FS(), start, func(at string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && at != start {
			return nil // it has just gone
		}
		if err != nil {
			return err
		}
		name := base
		if at != start {
			name = path.Join(base, strings.TrimPrefix(at, start+"/"))
		}
		err = writeEntry(out, top, at, name, links)
		if errors.Is(err, fs.ErrNotExist) && at != start {
			return nil
		}
		return err
	})
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// writeEntry writes one file. links remembers files by device and number, so that further
// names become hard links.
func writeEntry(out *tar.Writer, top *os.Root, at, name string, links map[[2]uint64]string) error {
	info, err := top.Lstat(at)
	if err != nil || info.Mode()&fs.ModeSocket != 0 {
		return err // archives have no word for sockets
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = top.Readlink(at); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname, h.Format = name, "", "", tar.FormatPAX
	if info.IsDir() {
		h.Name += "/"
	}
	if st, is := info.Sys().(*syscall.Stat_t); is && info.Mode().IsRegular() && st.Nlink > 1 {
		key := [2]uint64{st.Dev, st.Ino}
		if first := links[key]; first != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			links[key] = name
		}
	}
	if h.Typeflag != tar.TypeReg {
		return out.WriteHeader(h)
	}
	f, err := top.OpenFile(at, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	// A file that grows is cut, one that shrinks is filled up: the head has the size.
	n, err := io.Copy(out, io.LimitReader(f, h.Size))
	for zeros := make([]byte, 4096); err == nil && n < h.Size; {
		var m int
		m, err = out.Write(zeros[:min(int64(len(zeros)), h.Size-n)])
		n += int64(m)
	}
	return err
}

// serveArchivePut unpacks an archive into a directory of a container.
func (s *Server) serveArchivePut(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	asked := r.FormValue("path")
	if asked == "" {
		return invalid("missing parameter: path")
	}
	rec := s.recordOf(c)
	if rec.HostConfig.ReadonlyRootfs && !inMount(&rec, cleanPath(asked)) {
		return &apiError{http.StatusForbidden, "container rootfs is marked read-only"}
	}
	body, err := decompressed(r.Body)
	if err != nil {
		return err
	}
	defer body.Close()
	return s.withRoot(r.Context(), c, func(root string) error {
		root, name := s.place(c, root, asked)
		dir, err := openBelowWith(root, name, unix.O_PATH|unix.O_DIRECTORY)
		if errors.Is(err, fs.ErrNotExist) {
			return notFound("Could not find the file %s in container %s", asked, r.PathValue("id"))
		}
		if errors.Is(err, unix.ENOTDIR) {
			return invalid("extraction point is not a directory")
		}
		if err != nil {
			return err
		}
		defer dir.Close()
		into, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d/.", dir.Fd()))
		if err != nil {
			return err
		}
		defer into.Close()
		if err := unpack(body, into, unpackLimits{}); err != nil {
			return err
		}
		w.WriteHeader(http.StatusOK)
		return nil
	})
}

func inMount(r *record, name string) bool {
	for _, m := range r.Mounts {
		if !m.ReadOnly && (name == m.Destination || strings.HasPrefix(name, m.Destination+"/")) {
			return true
		}
	}
	return false
}

// serveChanges tells what a container has written.
func (s *Server) serveChanges(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	kept := image.KeptName(Namespace, s.recordOf(c).ID)
	lower, err := s.cfg.Images.Layers(r.Context(), kept)
	if err != nil {
		return err
	}
	changes := []types.FilesystemChange{}
	upper, err := os.OpenRoot(s.cfg.Images.Written(kept))
	if err != nil {
		return err
	}
	defer upper.Close()
	err = fs.WalkDir(upper.FS(), ".", func(at string, d fs.DirEntry, err error) error {
		if err != nil || at == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		changes = append(changes, types.FilesystemChange{Kind: changeOf(info, lower, at), Path: "/" + at})
		return nil
	})
	if err != nil {
		return err
	}
	return ok(w, changes)
}

func changeOf(info fs.FileInfo, lower []string, rel string) types.ChangeType {
	if st, is := info.Sys().(*syscall.Stat_t); is && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0 {
		return types.ChangeDelete // an overlay's whiteout
	}
	for _, layer := range lower {
		if below, err := os.Lstat(filepath.Join(layer, rel)); err == nil {
			if st, is := below.Sys().(*syscall.Stat_t); is && below.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0 {
				return types.ChangeAdd
			}
			return types.ChangeModify
		}
	}
	return types.ChangeAdd
}

// sizes are what a container wrote, and that with its image.
func (s *Server) sizes(ctx context.Context, r *record) (written, total int64) {
	if u, err := continuityfs.DiskUsage(ctx, s.cfg.Images.Written(image.KeptName(Namespace, r.ID))); err == nil {
		written = u.Size
	}
	total = written
	if img, err := s.cfg.Images.Get(ctx, r.Image); err == nil {
		if layers, err := s.cfg.Images.LayerSizes(ctx, img); err == nil {
			for _, n := range layers {
				total += n
			}
		}
	}
	return written, total
}
