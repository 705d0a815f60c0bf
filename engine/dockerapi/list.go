package dockerapi

import (
	"fmt"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	types "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	v1 "k8s.io/api/core/v1"
)

func (s *Server) containerRoutes() map[string]handler {
	return map[string]handler{
		"GET /containers/json":                       s.serveContainers,
		"POST /containers/create":                    s.serveCreate,
		"POST /containers/prune":                     s.serveContainersPrune,
		"GET /containers/{id}/json":                  s.serveContainer,
		"POST /containers/{id}/start":                s.serveStart,
		"POST /containers/{id}/stop":                 s.serveStop,
		"POST /containers/{id}/restart":              s.serveRestart,
		"POST /containers/{id}/kill":                 s.serveKill,
		"POST /containers/{id}/rename":               s.serveRename,
		"POST /containers/{id}/update":               s.serveUpdate,
		"POST /containers/{id}/wait":                 s.serveWait,
		"DELETE /containers/{id}":                    s.serveRemove,
		"GET /containers/{id}/top":                   s.serveTop,
		"GET /containers/{id}/stats":                 s.serveStats,
		"POST /containers/{id}/pause":                s.servePause,
		"POST /containers/{id}/unpause":              s.serveUnpause,
		"GET /containers/{id}/checkpoints":           serveCheckpoint,
		"POST /containers/{id}/checkpoints":          serveCheckpoint,
		"DELETE /containers/{id}/checkpoints/{name}": serveCheckpoint,
	}
}

func serveCheckpoint(http.ResponseWriter, *http.Request) error {
	return unavailable("docker checkpoint is not possible: processes are not written to disk here; docker pause stops them, and files outlive docker stop")
}

var containerFilters = []string{"ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name", "network", "publish", "since", "status", "volume"}

func (s *Server) serveContainers(w http.ResponseWriter, r *http.Request) error {
	f, err := filtersOf(r)
	if err == nil {
		err = f.known(containerFilters...)
	}
	if err != nil {
		return err
	}
	limit, _ := strconv.Atoi(r.FormValue("limit"))
	all := boolean(r, "all") || limit > 0 || len(f["status"])+len(f["exited"])+len(f["health"]) > 0
	match, err := s.containerMatcher(r, f)
	if err != nil {
		return err
	}
	out := []types.Summary{}
	for _, c := range s.all() {
		s.mu.Lock()
		rec, pod := c.rec, c.pod
		s.mu.Unlock()
		st := stateOf(&rec, pod)
		if !all && !st.running() && st.status != types.StateRestarting || !match(&rec, st) {
			continue
		}
		summary := s.summary(&rec, pod, st)
		if boolean(r, "size") {
			summary.SizeRw, summary.SizeRootFs = s.sizes(r.Context(), &rec)
		}
		out = append(out, summary)
		if limit > 0 && len(out) == limit {
			break
		}
	}
	return ok(w, out)
}

// containerMatcher is what all filters together say.
func (s *Server) containerMatcher(r *http.Request, f filters) (func(*record, state) bool, error) {
	var before, since time.Time
	for name, to := range map[string]*time.Time{"before": &before, "since": &since} {
		for _, ref := range f[name] {
			c, err := s.find(ref)
			if err != nil {
				return nil, err
			}
			*to = s.recordOf(c).Created
		}
	}
	images := map[string]bool{}
	for _, ref := range f["ancestor"] {
		if img, err := s.image(r.Context(), ref); err == nil {
			images[img.ID] = true
		}
	}
	return func(rec *record, st state) bool {
		return f.any("id", func(v string) bool { return strings.HasPrefix(rec.ID, v) }) &&
			f.any("name", func(v string) bool { return nameMatches(rec.Name, v) }) &&
			f.labels("label", rec.Config.Labels) &&
			f.any("status", func(v string) bool { return v == string(st.status) }) &&
			f.any("exited", func(v string) bool { return st.over() && v == strconv.Itoa(st.run.ExitCode) }) &&
			f.any("health", func(v string) bool { return v == string(healthOf(rec, st, time.Now())) }) &&
			f.any("ancestor", func(v string) bool { return images[rec.ImageID] || rec.Config.Image == v }) &&
			f.any("network", func(v string) bool { return s.hasNetwork(rec, v) }) &&
			f.any("volume", func(v string) bool {
				return slices.ContainsFunc(rec.Mounts, func(m mountRecord) bool { return m.Name == v || m.Destination == v || m.Source == v })
			}) &&
			f.any("publish", func(v string) bool { return hasPort(rec.Ports, v) }) &&
			f.any("expose", func(v string) bool { return exposes(rec, v) }) &&
			f.any("is-task", func(v string) bool { return v == "false" }) &&
			(before.IsZero() || rec.Created.Before(before)) && (since.IsZero() || rec.Created.After(since))
	}, nil
}

// nameMatches is whether a name fits a filter, which may be a part of it or a pattern
// such as ^/cart$.
func nameMatches(name, pattern string) bool {
	if p, exact := strings.CutPrefix(pattern, "^"); exact {
		p = strings.TrimPrefix(strings.TrimSuffix(p, "$"), "/")
		if strings.HasSuffix(pattern, "$") {
			return name == p
		}
		return strings.HasPrefix(name, p)
	}
	return strings.Contains("/"+name, strings.TrimSuffix(pattern, "$"))
}

func hasPort(ports network.PortMap, wanted string) bool {
	p, err := network.ParsePort(wanted)
	return err == nil && len(ports[p]) > 0
}

func exposes(r *record, wanted string) bool {
	p, err := network.ParsePort(wanted)
	if err != nil {
		return false
	}
	_, is := r.Config.ExposedPorts[p]
	return is || len(r.Ports[p]) > 0
}

// summary is a line of docker ps.
func (s *Server) summary(r *record, pod *v1.Pod, st state) types.Summary {
	out := types.Summary{
		ID: r.ID, Names: []string{"/" + r.Name}, Image: r.Config.Image, ImageID: r.ImageID, Created: r.Created.Unix(),
		Command: strings.Join(append(slices.Clone(r.Command), r.Args...), " "), Labels: r.Config.Labels,
		State: st.status, Status: st.describe(r, time.Now()), Ports: portSummaries(r, st), Mounts: mountPoints(r),
		NetworkSettings: &types.NetworkSettingsSummary{Networks: s.endpoints(r, pod)},
		Health:          &types.HealthSummary{Status: healthOf(r, st, time.Now())},
	}
	out.HostConfig.NetworkMode = string(r.HostConfig.NetworkMode)
	return out
}

func portSummaries(r *record, st state) []types.PortSummary {
	out := []types.PortSummary{}
	if !st.running() {
		return out
	}
	for _, port := range sortedPorts(r.Config.ExposedPorts, r.Ports) {
		bindings := r.Ports[port]
		if len(bindings) == 0 {
			out = append(out, types.PortSummary{PrivatePort: port.Num(), Type: string(port.Proto())})
		}
		for _, b := range bindings {
			public, _ := strconv.ParseUint(b.HostPort, 10, 16)
			out = append(out, types.PortSummary{IP: b.HostIP, PrivatePort: port.Num(), PublicPort: uint16(public), Type: string(port.Proto())})
		}
	}
	return out
}

func sortedPorts(exposed network.PortSet, published network.PortMap) []network.Port {
	var ports []network.Port
	for p := range exposed {
		ports = append(ports, p)
	}
	for p := range published {
		if _, twice := exposed[p]; !twice {
			ports = append(ports, p)
		}
	}
	slices.SortFunc(ports, func(a, b network.Port) int {
		if a.Num() != b.Num() {
			return int(a.Num()) - int(b.Num())
		}
		return strings.Compare(string(a.Proto()), string(b.Proto()))
	})
	return ports
}

func mountPoints(r *record) []types.MountPoint {
	out := []types.MountPoint{}
	for _, m := range r.Mounts {
		p := types.MountPoint{Type: mount.Type(m.Type), Name: m.Name, Source: m.Source, Destination: m.Destination, RW: !m.ReadOnly, Propagation: mount.Propagation(m.Propagation)}
		if m.Type == "volume" {
			p.Driver = "local"
		}
		if m.Type == "bind" && p.Propagation == "" {
			p.Propagation = mount.PropagationRPrivate
		}
		if m.ReadOnly {
			p.Mode = "ro"
		}
		out = append(out, p)
	}
	return out
}

// inspection adds fields that clients before API 1.52 read.
type inspection struct {
	types.InspectResponse
	NetworkSettings legacyNetworkSettings
}

type legacyNetworkSettings struct {
	*types.NetworkSettings
	IPAddress   string
	IPPrefixLen int
	Gateway     string
	MacAddress  string
	Bridge      string
}

func (s *Server) serveContainer(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	s.mu.Lock()
	rec, pod := c.rec, c.pod
	s.mu.Unlock()
	st := stateOf(&rec, pod)
	out := types.InspectResponse{
		ID: rec.ID, Created: rec.Created.Format(time.RFC3339Nano), Image: rec.ImageID, Name: "/" + rec.Name, RestartCount: st.run.Restarts,
		State: s.stateResponse(r, &rec, st), Driver: "overlay2", Platform: "linux", HostConfig: rec.HostConfig, Config: rec.Config,
		Mounts: mountPoints(&rec), LogPath: s.archivePath(rec.ID), Args: []string{},
	}
	if command := append(slices.Clone(rec.Command), rec.Args...); len(command) > 0 {
		out.Path, out.Args = command[0], command[1:]
	}
	if boolean(r, "size") {
		rw, all := s.sizes(r.Context(), &rec)
		out.SizeRw, out.SizeRootFs = &rw, &all
	}
	s.execs.mu.Lock()
	for id, x := range s.execs.byID {
		if x.container == c && x.exit == nil {
			out.ExecIDs = append(out.ExecIDs, id)
		}
	}
	s.execs.mu.Unlock()
	settings := &types.NetworkSettings{Ports: network.PortMap{}, Networks: s.endpoints(&rec, pod)}
	if st.running() {
		for _, port := range sortedPorts(rec.Config.ExposedPorts, rec.Ports) {
			settings.Ports[port] = rec.Ports[port]
		}
	}
	old := legacyNetworkSettings{NetworkSettings: settings}
	for _, e := range settings.Networks {
		if e.IPAddress.IsValid() {
			old.IPAddress, old.IPPrefixLen, old.Gateway = e.IPAddress.String(), e.IPPrefixLen, addrText(e.Gateway)
		}
	}
	return ok(w, inspection{InspectResponse: out, NetworkSettings: old})
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (s *Server) stateResponse(r *http.Request, rec *record, st state) *types.State {
	out := &types.State{Status: st.status, Running: st.running() || st.status == types.StateRestarting, Paused: st.paused(), Restarting: st.status == types.StateRestarting,
		OOMKilled: st.run.OOMKilled, ExitCode: st.run.ExitCode, Error: st.run.Error,
		StartedAt: docTime(st.run.StartedAt), FinishedAt: docTime(st.run.FinishedAt)}
	if st.running() {
		out.Pid = s.cfg.Machine.PID(r.Context(), Namespace, rec.Pod)
	}
	if hasHealthcheck(rec) {
		out.Health = &types.Health{Status: healthOf(rec, st, time.Now()), Log: []*types.HealthcheckResult{}}
		if out.Health.Status == types.Unhealthy {
			out.Health.FailingStreak = retries(rec.Config.Healthcheck)
		}
	}
	return out
}

func docTime(t time.Time) string {
	if t.IsZero() {
		return "0001-01-01T00:00:00Z"
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// hasNetwork is whether a container is in the network that a client names.
func (s *Server) hasNetwork(r *record, ref string) bool {
	if _, is := r.Networks[ref]; is {
		return true
	}
	n, err := s.findNetwork(ref)
	if err != nil {
		return false
	}
	_, is := r.Networks[n.Name]
	return is
}

// endpoints are a container's networks with its address in them, which is one and the same.
func (s *Server) endpoints(r *record, pod *v1.Pod) map[string]*network.EndpointSettings {
	out := map[string]*network.EndpointSettings{}
	for name, asked := range r.Networks {
		e := asked.Copy()
		if e == nil {
			e = &network.EndpointSettings{}
		}
		if n, err := s.findNetwork(name); err == nil {
			e.NetworkID = n.ID
		}
		e.DNSNames = dnsNames(r, name)
		if pod != nil && pod.Name == r.Pod && pod.Status.PodIP != "" && name != network.NetworkHost {
			if ip, err := netip.ParseAddr(pod.Status.PodIP); err == nil {
				e.IPAddress, e.IPPrefixLen, e.Gateway = ip, s.cfg.PodCIDR.Bits(), s.cfg.HostIP
				e.EndpointID = hash(r.ID+name) + hash(name+r.ID)
			}
		}
		out[name] = e
	}
	return out
}

// pruneFilters are those of requests that remove what is not used: by labels, and what is older
// than a time, which is zero when none was given.
func pruneFilters(r *http.Request) (filters, time.Time, error) {
	var until time.Time
	f, err := filtersOf(r)
	if err == nil {
		err = f.known("label", "label!", "until")
	}
	if err != nil {
		return nil, until, err
	}
	for _, text := range f["until"] {
		if until, err = timeOf(text); err != nil {
			return nil, until, err
		}
	}
	return f, until, nil
}

func (s *Server) serveContainersPrune(w http.ResponseWriter, r *http.Request) error {
	f, until, err := pruneFilters(r)
	if err != nil {
		return err
	}
	report := types.PruneReport{ContainersDeleted: []string{}}
	for _, c := range s.all() {
		rec, st := s.recordOf(c), s.current(c)
		if st.running() || st.status == types.StateRestarting || !f.labels("label", rec.Config.Labels) || !f.withoutLabels(rec.Config.Labels) || !until.IsZero() && rec.Created.After(until) {
			continue
		}
		size, _ := s.sizes(r.Context(), &rec)
		if err := s.remove(r.Context(), c, removeOptions{}); err != nil {
			continue // it was started in between
		}
		report.ContainersDeleted = append(report.ContainersDeleted, rec.ID)
		report.SpaceReclaimed += uint64(size)
	}
	s.event("container", "prune", "", map[string]string{"reclaimed": fmt.Sprint(report.SpaceReclaimed)})
	return ok(w, report)
}

func cleanPath(p string) string { return path.Clean("/" + p) }
