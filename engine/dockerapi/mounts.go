package dockerapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/mount"
)

// chooseMounts turns everything that a container mounts into records: -v and --mount,
// --tmpfs, --volumes-from and the volumes that its image declares. A volume that is new
// gets the image's files at that place. Where two are for one place the first counts.
func (s *Server) chooseMounts(ctx context.Context, r *record, rootfs string) error {
	add := func(m mountRecord) { // the caller has checked it
		m.Destination = path.Clean(m.Destination)
		if !slices.ContainsFunc(r.Mounts, func(o mountRecord) bool { return o.Destination == m.Destination }) {
			r.Mounts = append(r.Mounts, m)
		}
	}
	h := r.HostConfig
	for _, bind := range h.Binds {
		m, err := parseBind(bind)
		if err != nil {
			return err
		}
		add(m)
	}
	for _, m := range h.Mounts {
		rec, err := s.parseMount(m)
		if err != nil {
			return err
		}
		add(rec)
	}
	for _, target := range sortedKeys(h.Tmpfs) {
		m := mountRecord{Type: "tmpfs", Destination: target}
		if err := tmpfsOptions(strings.Split(h.Tmpfs[target], ","), &m); err != nil {
			return err
		}
		add(m)
	}
	if err := s.volumesFrom(r, add); err != nil {
		return err
	}
	for _, target := range sortedKeys(r.Config.Volumes) {
		add(mountRecord{Type: "volume", Destination: target, Anonymous: true})
	}
	for i := range r.Mounts {
		if err := s.realize(ctx, &r.Mounts[i], rootfs); err != nil {
			return err
		}
	}
	return nil
}

// parseBind reads SOURCE:DESTINATION[:OPTIONS] of -v, or a destination alone.
func parseBind(text string) (mountRecord, error) {
	parts := strings.Split(text, ":")
	var m mountRecord
	switch len(parts) {
	case 1:
		m = mountRecord{Type: "volume", Destination: parts[0], Anonymous: true}
	case 2, 3:
		m = mountRecord{Type: "volume", Name: parts[0], Destination: parts[1]}
		if strings.HasPrefix(parts[0], "/") {
			m.Type, m.Name, m.Source = "bind", "", filepath.Clean(parts[0])
		}
	default:
		return m, invalid("invalid volume specification: '%s'", text)
	}
	if len(parts) == 3 {
		for _, option := range strings.Split(parts[2], ",") {
			switch option {
			case "ro":
				m.ReadOnly = true
			case "nocopy":
				m.NoCopy = true
			case "rw", "z", "Z", "cached", "delegated", "consistent", "private", "rprivate", "":
			case "rshared", "shared", "rslave", "slave":
				m.Propagation = option
			default:
				return m, invalid("invalid volume specification: '%s': invalid mode: %s", text, option)
			}
		}
	}
	return m, checkTarget(m.Destination)
}

func checkTarget(target string) error {
	if !strings.HasPrefix(target, "/") {
		return invalid("invalid mount config: invalid mount path: '%s' mount path must be absolute", target)
	}
	if path.Clean(target) == "/" {
		return invalid("invalid volume specification: destination can't be '/'")
	}
	return nil
}

// parseMount reads one --mount.
func (s *Server) parseMount(m mount.Mount) (mountRecord, error) {
	rec := mountRecord{Type: string(m.Type), Destination: m.Target, ReadOnly: m.ReadOnly}
	if err := checkTarget(m.Target); err != nil {
		return rec, err
	}
	switch m.Type {
	case mount.TypeBind:
		if !filepath.IsAbs(m.Source) {
			return rec, invalid("invalid mount config for type \"bind\": invalid mount path: '%s' mount path must be absolute", m.Source)
		}
		rec.Source = s.apiSocket(filepath.Clean(m.Source))
		create := m.BindOptions != nil && m.BindOptions.CreateMountpoint
		if _, err := os.Stat(rec.Source); errors.Is(err, fs.ErrNotExist) && !create {
			return rec, invalid("invalid mount config for type \"bind\": bind source path does not exist: %s", m.Source)
		}
		if o := m.BindOptions; o != nil {
			rec.Propagation = string(o.Propagation)
			if o.NonRecursive || o.ReadOnlyForceRecursive {
				return rec, invalid("--mount bind-recursive=%s is not possible: what is mounted below %s comes with it, as it is", map[bool]string{true: "disabled", false: "readonly"}[o.NonRecursive], m.Source)
			}
		}
	case mount.TypeVolume:
		rec.Name, rec.Anonymous = m.Source, m.Source == ""
		if o := m.VolumeOptions; o != nil {
			if o.DriverConfig != nil && (o.DriverConfig.Name != "" && o.DriverConfig.Name != "local" || len(o.DriverConfig.Options) > 0) {
				return rec, invalid("volume driver options are not possible: volumes are directories of this machine")
			}
			rec.NoCopy, rec.labels = o.NoCopy, o.Labels
			if o.Subpath != "" {
				return rec, invalid("a volume's subpath is not possible: mount the whole volume")
			}
		}
	case mount.TypeTmpfs:
		if o := m.TmpfsOptions; o != nil {
			options := []string{}
			if o.Mode != 0 {
				options = append(options, fmt.Sprintf("mode=%o", o.Mode.Perm()|o.Mode&0o7000))
			}
			for _, option := range o.Options {
				options = append(options, strings.Join(option, "="))
			}
			if err := tmpfsOptions(options, &rec); err != nil {
				return rec, err
			}
			rec.SizeBytes = max(rec.SizeBytes, o.SizeBytes)
		}
	default:
		return rec, invalid("mount type %q is not possible: there are bind, volume and tmpfs", m.Type)
	}
	return rec, nil
}

// apiSocket is this API's socket for who mounts dockerd's and there is none, as
// --use-api-socket does; other paths stay as they are.
func (s *Server) apiSocket(path string) string {
	if path != "/var/run/docker.sock" && path != "/run/docker.sock" {
		return path
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return filepath.Join(s.cfg.DataDir, SocketName)
	}
	return path
}

func (s *Server) volumesFrom(r *record, add func(mountRecord)) error {
	for _, from := range r.HostConfig.VolumesFrom {
		ref, mode, _ := strings.Cut(from, ":")
		other, err := s.find(ref)
		if err != nil {
			return err
		}
		for _, m := range s.recordOf(other).Mounts {
			m.Anonymous = false
			m.ReadOnly = m.ReadOnly || mode == "ro"
			add(m)
		}
	}
	return nil
}

// realize makes what a mount mounts.
func (s *Server) realize(ctx context.Context, m *mountRecord, rootfs string) error {
	switch m.Type {
	case "bind":
		m.Source = s.apiSocket(m.Source)
		if _, err := os.Stat(m.Source); errors.Is(err, fs.ErrNotExist) {
			if err := os.MkdirAll(m.Source, 0o755); err != nil { // as docker does for -v
				return fmt.Errorf("make the directory to mount: %w", err)
			}
		}
	case "volume":
		if m.Source != "" {
			return nil // of another container
		}
		if m.Name == "" {
			m.Name = randomID()
		}
		v, isNew, err := s.ensureVolume(ctx, m.Name, m.labels, m.Anonymous)
		if err != nil {
			return err
		}
		m.Source = s.volumeDir(v.Name)
		if !m.NoCopy && (isNew || isEmpty(m.Source)) {
			return copyUp(rootfs, m.Destination, m.Source)
		}
	}
	return nil
}

func isEmpty(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	names, err := f.Readdirnames(1)
	return len(names) == 0 && err != nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
