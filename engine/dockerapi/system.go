package dockerapi

import (
	"bytes"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/moby/moby/api/types/build"
	types "github.com/moby/moby/api/types/container"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"
)

func (s *Server) systemRoutes() map[string]handler {
	return map[string]handler{
		"GET /_ping":     s.servePing,
		"HEAD /_ping":    s.servePing,
		"GET /version":   s.serveVersion,
		"GET /info":      s.serveInfo,
		"GET /events":    s.serveEvents,
		"GET /system/df": s.serveDiskUsage,
		"GET /plugins":   func(w http.ResponseWriter, _ *http.Request) error { return ok(w, []any{}) },
	}
}

func (s *Server) servePing(w http.ResponseWriter, _ *http.Request) error {
	h := w.Header()
	h.Set("Builder-Version", "2") // BuildKit
	h.Set("Swarm", "inactive")
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("OK")) // nobody to tell
	return nil
}

// kernel tells the kernel's release and machine.
func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return string(bytes.TrimRight(u.Release[:], "\x00"))
}

func (s *Server) serveVersion(w http.ResponseWriter, _ *http.Request) error {
	details := map[string]string{"ApiVersion": apiVersion, "MinAPIVersion": minAPIVersion, "Os": "linux", "Arch": goarch, "GoVersion": runtime.Version(), "KernelVersion": kernel()}
	return ok(w, system.VersionResponse{
		Platform: system.PlatformInfo{Name: "Gantry"}, Version: s.cfg.Version, APIVersion: apiVersion, MinAPIVersion: minAPIVersion,
		Os: "linux", Arch: goarch, GoVersion: runtime.Version(), KernelVersion: kernel(),
		Components: []system.ComponentVersion{{Name: "Engine", Version: s.cfg.Version, Details: details}},
	})
}

func (s *Server) serveInfo(w http.ResponseWriter, r *http.Request) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	groups, err := s.group(r.Context())
	if err != nil {
		return err
	}
	out := system.Info{
		ID: s.id, Name: host, Images: len(groups), ServerVersion: s.cfg.Version, Driver: "overlay2",
		DriverStatus: [][2]string{{"Containers", "pods of namespace " + Namespace + ": kubectl shows them too"}},
		Plugins:      system.PluginsInfo{Volume: []string{"local"}, Network: []string{"bridge", "host", "null"}, Log: []string{"json-file", "local"}},
		MemoryLimit:  true, CPUCfsPeriod: true, CPUCfsQuota: true, CPUShares: true, PidsLimit: true, IPv4Forwarding: true,
		NFd: -1, NGoroutines: runtime.NumGoroutine(), SystemTime: time.Now().Format(time.RFC3339Nano), LoggingDriver: "json-file",
		CgroupDriver: "cgroupfs", CgroupVersion: cgroupVersion(), KernelVersion: kernel(), OperatingSystem: operatingSystem(), OSType: "linux",
		Architecture: unameMachine(), IndexServerAddress: "https://index.docker.io/v1/", NCPU: runtime.NumCPU(), MemTotal: memTotal(),
		DockerRootDir: s.dir, DefaultRuntime: "runc", Runtimes: map[string]system.RuntimeWithStatus{"runc": {}},
		Swarm: swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive}, LiveRestoreEnabled: true,
		SecurityOptions: []string{"name=seccomp,profile=builtin"}, Labels: []string{}, Warnings: []string{},
		RegistryConfig: &registry.ServiceConfig{IndexConfigs: map[string]*registry.IndexInfo{"docker.io": {Name: "docker.io", Mirrors: []string{}, Secure: true, Official: true}}},
	}
	for _, c := range s.all() {
		out.Containers++
		if st := s.current(c); st.paused() {
			out.ContainersPaused++
		} else if st.running() || st.status == types.StateRestarting {
			out.ContainersRunning++
		} else {
			out.ContainersStopped++
		}
	}
	return ok(w, out)
}

func cgroupVersion() string {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return "2"
	}
	return "1"
}

func unameMachine() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return goarch
	}
	return string(bytes.TrimRight(u.Machine[:], "\x00"))
}

func operatingSystem() string {
	blob, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for _, line := range strings.Split(string(blob), "\n") {
		if name, is := strings.CutPrefix(line, "PRETTY_NAME="); is {
			return strings.Trim(name, `"`)
		}
	}
	return "Linux"
}

// diskUsage has the answer's form until API 1.51.
type diskUsage struct {
	LayersSize int64
	Images     []imagetypes.Summary
	Containers []types.Summary
	Volumes    []volume.Volume
	BuildCache []build.CacheRecord
}

func (s *Server) serveDiskUsage(w http.ResponseWriter, r *http.Request) error {
	out := diskUsage{Images: []imagetypes.Summary{}, Containers: []types.Summary{}, Volumes: []volume.Volume{}, BuildCache: []build.CacheRecord{}}
	wanted := func(kind string) bool {
		asked := r.URL.Query()["type"]
		if len(asked) == 0 {
			return true
		}
		for _, a := range asked {
			if a == kind {
				return true
			}
		}
		return false
	}
	used := map[string]int64{}
	for _, c := range s.all() {
		s.mu.Lock()
		rec, pod := c.rec, c.pod
		s.mu.Unlock()
		used[rec.ImageID]++
		if wanted("container") {
			summary := s.summary(&rec, pod, stateOf(&rec, pod))
			summary.SizeRw, summary.SizeRootFs = s.sizes(r.Context(), &rec)
			out.Containers = append(out.Containers, summary)
		}
	}
	if wanted("image") {
		groups, err := s.group(r.Context())
		if err != nil {
			return err
		}
		for _, g := range groups {
			summary := s.summaryOf(g)
			summary.Containers, summary.SharedSize = used[g.ID], 0
			out.Images = append(out.Images, summary)
			out.LayersSize += g.Size
		}
	}
	if wanted("volume") {
		for _, v := range s.allVolumes() {
			out.Volumes = append(out.Volumes, s.volumeOf(v, true))
		}
	}
	return ok(w, out)
}
