package dockerapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	continuityfs "github.com/containerd/continuity/fs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// volumeRecord is a named volume: a directory below DataDir/docker/volumes.
type volumeRecord struct {
	Name      string
	Created   time.Time
	Labels    map[string]string
	Options   map[string]string
	Anonymous bool
}

var validVolume = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// volumeDir is where a volume's files are.
func (s *Server) volumeDir(name string) string {
	if name == "" {
		return filepath.Join(s.dir, "volumes")
	}
	return filepath.Join(s.dir, "volumes", name, "_data")
}

func volumeObject(name string) string { return "volume-" + hash(name) }

// ensureVolume finds or makes a volume.
func (s *Server) ensureVolume(ctx context.Context, name string, labels map[string]string, anonymous bool) (v *volumeRecord, isNew bool, err error) {
	if !validVolume.MatchString(name) || len(name) > 255 {
		return nil, false, invalid("%q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", name)
	}
	s.mu.Lock()
	v = s.volumes[name]
	if v == nil {
		v, isNew = &volumeRecord{Name: name, Created: time.Now().UTC(), Labels: labels, Anonymous: anonymous}, true
		s.volumes[name] = v
	}
	s.mu.Unlock()
	if !isNew {
		return v, false, nil
	}
	if err = os.MkdirAll(s.volumeDir(name), 0o755); err == nil {
		if err = os.Chmod(filepath.Dir(s.volumeDir(name)), 0o701); err == nil {
			err = s.saveObject(ctx, "volume", volumeObject(name), v)
		}
	}
	if err != nil {
		s.mu.Lock()
		delete(s.volumes, name)
		s.mu.Unlock()
		return nil, false, fmt.Errorf("make volume %s: %w", name, err)
	}
	s.event(events.VolumeEventType, events.ActionCreate, name, map[string]string{"driver": "local"})
	return v, true, nil
}

// copyUp fills a new volume with what the image has at its place, owners included.
func copyUp(rootfs, target, into string) error {
	source, err := openBelow(rootfs, target)
	if err != nil {
		return nil // nothing is there
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil || !info.IsDir() {
		return nil
	}
	from := fmt.Sprintf("/proc/self/fd/%d/.", source.Fd())
	if err := continuityfs.CopyDir(into, from); err != nil {
		return fmt.Errorf("fill the volume for %s: %w", target, err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(into, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(into, info.Mode())
}

// openBelow opens a path as a process whose root is rootfs would: a symbolic link in the
// image leads nowhere else.
func openBelow(rootfs, name string) (*os.File, error) {
	return openBelowWith(rootfs, name, unix.O_RDONLY|unix.O_NONBLOCK)
}

func openBelowWith(rootfs, name string, flags uint64) (*os.File, error) {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: rootfs, Err: err}
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (s *Server) volumeRoutes() map[string]handler {
	return map[string]handler{
		"GET /volumes":           s.serveVolumes,
		"POST /volumes/create":   s.serveVolumeCreate,
		"POST /volumes/prune":    s.serveVolumesPrune,
		"GET /volumes/{name}":    s.serveVolume,
		"DELETE /volumes/{name}": s.serveVolumeRemove,
	}
}

// volumeOf is a volume as docker tells it.
func (s *Server) volumeOf(v *volumeRecord, size bool) volume.Volume {
	out := volume.Volume{Name: v.Name, Driver: "local", Scope: "local", Mountpoint: s.volumeDir(v.Name),
		CreatedAt: v.Created.Format(time.RFC3339), Labels: v.Labels, Options: v.Options}
	if size {
		out.UsageData = &volume.UsageData{RefCount: int64(len(s.usersOf(v.Name)))}
		if u, err := continuityfs.DiskUsage(context.Background(), s.volumeDir(v.Name)); err == nil {
			out.UsageData.Size = u.Size
		}
	}
	return out
}

// usersOf lists the containers that mount a volume.
func (s *Server) usersOf(name string) []string {
	var users []string
	for _, c := range s.all() {
		r := s.recordOf(c)
		if slices.ContainsFunc(r.Mounts, func(m mountRecord) bool { return m.Type == "volume" && m.Name == name }) {
			users = append(users, r.ID)
		}
	}
	return users
}

func (s *Server) serveVolumes(w http.ResponseWriter, r *http.Request) error {
	f, err := filtersOf(r)
	if err == nil {
		err = f.known("dangling", "driver", "label", "name")
	}
	if err != nil {
		return err
	}
	list := volume.ListResponse{Volumes: []volume.Volume{}, Warnings: []string{}}
	for _, v := range s.allVolumes() {
		dangling, asked := f.flag("dangling")
		if asked && dangling != (len(s.usersOf(v.Name)) == 0) {
			continue
		}
		if f.labels("label", v.Labels) && f.any("name", func(n string) bool { return strings.Contains(v.Name, n) }) && f.any("driver", func(d string) bool { return d == "local" }) {
			list.Volumes = append(list.Volumes, s.volumeOf(v, false))
		}
	}
	return ok(w, list)
}

func (s *Server) allVolumes() []*volumeRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*volumeRecord
	for _, name := range sortedKeys(s.volumes) {
		list = append(list, s.volumes[name])
	}
	return list
}

func (s *Server) serveVolumeCreate(w http.ResponseWriter, r *http.Request) error {
	var req volume.CreateRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	if req.Driver != "" && req.Driver != "local" {
		return notFound("volume driver %s is not possible: there is only local", req.Driver)
	}
	if len(req.DriverOpts) > 0 {
		return invalid("options of the local driver are not possible: volumes are directories of this machine; mount other file systems on the host and use a bind mount")
	}
	anonymous := req.Name == ""
	if anonymous {
		req.Name = randomID()
	}
	v, _, err := s.ensureVolume(r.Context(), req.Name, req.Labels, anonymous)
	if err != nil {
		return err
	}
	answer(w, http.StatusCreated, s.volumeOf(v, false))
	return nil
}

func (s *Server) findVolume(name string) (*volumeRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.volumes[name]; v != nil {
		return v, nil
	}
	return nil, notFound("get %s: no such volume", name)
}

func (s *Server) serveVolume(w http.ResponseWriter, r *http.Request) error {
	v, err := s.findVolume(r.PathValue("name"))
	if err != nil {
		return err
	}
	return ok(w, s.volumeOf(v, false))
}

func (s *Server) serveVolumeRemove(w http.ResponseWriter, r *http.Request) error {
	v, err := s.findVolume(r.PathValue("name"))
	if err != nil {
		if boolean(r, "force") {
			return noContent(w)
		}
		return err
	}
	if err := s.removeVolume(r.Context(), v.Name); err != nil {
		return err
	}
	return noContent(w)
}

// removeVolume deletes a volume that nobody mounts.
func (s *Server) removeVolume(ctx context.Context, name string) error {
	if users := s.usersOf(name); len(users) > 0 {
		return conflict("remove %s: volume is in use - [%s]", name, strings.Join(users, ", "))
	}
	if err := os.RemoveAll(filepath.Dir(s.volumeDir(name))); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	err := s.client.CoreV1().ConfigMaps(Namespace).Delete(ctx, volumeObject(name), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	s.mu.Lock()
	delete(s.volumes, name)
	s.mu.Unlock()
	s.event(events.VolumeEventType, events.ActionDestroy, name, map[string]string{"driver": "local"})
	return nil
}

// dropAnonymous removes the volumes that were made for one container only.
func (s *Server) dropAnonymous(ctx context.Context, r *record) {
	for _, m := range r.Mounts {
		if m.Type != "volume" || !m.Anonymous || m.Name == "" {
			continue
		}
		var used *apiError
		if err := s.removeVolume(ctx, m.Name); err != nil && !errors.As(err, &used) {
			s.log.Warn("remove a container's volume", "volume", m.Name, "err", err)
		}
	}
}

func (s *Server) serveVolumesPrune(w http.ResponseWriter, r *http.Request) error {
	f, err := filtersOf(r)
	if err == nil {
		err = f.known("label", "label!", "all")
	}
	if err != nil {
		return err
	}
	every, _ := f.flag("all")
	report := volume.PruneReport{VolumesDeleted: []string{}}
	for _, v := range s.allVolumes() {
		if !every && !v.Anonymous || !f.labels("label", v.Labels) || !f.withoutLabels(v.Labels) || len(s.usersOf(v.Name)) > 0 {
			continue
		}
		size := s.volumeOf(v, true).UsageData.Size
		if err := s.removeVolume(r.Context(), v.Name); err != nil {
			continue // a container took it in between
		}
		report.VolumesDeleted = append(report.VolumesDeleted, v.Name)
		report.SpaceReclaimed += uint64(size)
	}
	s.event(events.VolumeEventType, events.ActionPrune, "", map[string]string{"reclaimed": fmt.Sprint(report.SpaceReclaimed)})
	return ok(w, report)
}
