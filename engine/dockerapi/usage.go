package dockerapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	types "github.com/moby/moby/api/types/container"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// statsInterval is how often docker stats is told.
const statsInterval = time.Second

func (s *Server) serveStats(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	stream := r.FormValue("stream") == "" || boolean(r, "stream")
	w.Header().Set("Content-Type", "application/json")
	flusher := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	before := s.sample(r.Context(), c)
	if !stream && boolean(r, "one-shot") {
		return enc.Encode(before)
	}
	tick := time.NewTicker(statsInterval)
	defer tick.Stop()
	if stream {
		if err := enc.Encode(before); err != nil {
			return nil
		}
		_ = flusher.Flush()
	}
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-tick.C:
		}
		s.mu.Lock()
		gone := c.gone
		s.mu.Unlock()
		if gone {
			return nil
		}
		now := s.sample(r.Context(), c)
		now.PreCPUStats, now.PreRead = before.CPUStats, before.Read
		if err := enc.Encode(now); err != nil || !stream {
			return nil
		}
		_ = flusher.Flush()
		before = now
	}
}

// sample reads what a container uses. Of one that does not run it is empty.
func (s *Server) sample(ctx context.Context, c *container) types.StatsResponse {
	r := s.recordOf(c)
	out := types.StatsResponse{ID: r.ID, Name: "/" + r.Name, OSType: "linux", Read: time.Now()}
	st, err := s.cfg.Machine.Stats(ctx, Namespace, r.Pod)
	if err != nil {
		return out
	}
	out.Read = st.At
	out.CPUStats = types.CPUStats{
		CPUUsage: types.CPUUsage{TotalUsage: st.CPUNanos}, SystemUsage: systemCPU(), OnlineCPUs: uint32(goruntime.NumCPU()),
		ThrottlingData: types.ThrottlingData{ThrottledPeriods: st.ThrottledPeriods},
	}
	out.MemoryStats = types.MemoryStats{Usage: st.MemoryBytes, Limit: uint64(r.HostConfig.Memory),
		Stats: map[string]uint64{"inactive_file": st.MemoryBytes - min(st.MemoryBytes, st.WorkingSetBytes), "total_inactive_file": st.MemoryBytes - min(st.MemoryBytes, st.WorkingSetBytes)}}
	if r.HostConfig.Memory == 0 {
		out.MemoryStats.Limit = uint64(memTotal())
	}
	out.PidsStats = types.PidsStats{Current: st.Pids}
	if pid := s.cfg.Machine.PID(ctx, Namespace, r.Pod); pid != 0 && !r.HostConfig.NetworkMode.IsHost() && !r.HostConfig.NetworkMode.IsNone() {
		out.Networks = networkStats(pid)
	}
	return out
}

// clockTick is the unit of /proc/stat, which is 100 a second on every architecture.
const clockTick = time.Second / 100

// systemCPU is the processor time of the machine, idle time included, in nanoseconds.
func systemCPU() uint64 {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return 0
	}
	defer f.Close()
	line, _ := bufio.NewReader(f).ReadString('\n')
	var total uint64
	for i, field := range strings.Fields(line) {
		if i == 0 || i > 8 { // the name; guests are counted already
			continue
		}
		n, _ := strconv.ParseUint(field, 10, 64)
		total += n
	}
	return total * uint64(clockTick)
}

func memTotal() int64 {
	blob, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var kb int64
	fmt.Sscanf(string(blob), "MemTotal: %d kB", &kb)
	return kb << 10
}

// networkStats reads the interfaces of a process's network.
func networkStats(pid int) map[string]types.NetworkStats {
	blob, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil
	}
	out := map[string]types.NetworkStats{}
	for _, line := range strings.Split(string(blob), "\n") {
		name, counts, found := strings.Cut(line, ":")
		fields := strings.Fields(counts)
		name = strings.TrimSpace(name)
		if !found || len(fields) < 16 || name == "lo" {
			continue
		}
		n := func(i int) uint64 { v, _ := strconv.ParseUint(fields[i], 10, 64); return v }
		out[name] = types.NetworkStats{RxBytes: n(0), RxPackets: n(1), RxErrors: n(2), RxDropped: n(3), TxBytes: n(8), TxPackets: n(9), TxErrors: n(10), TxDropped: n(11)}
	}
	return out
}

// serveTop lists a container's processes as the host's ps shows them.
func (s *Server) serveTop(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	rec := s.recordOf(c)
	pid := s.cfg.Machine.PID(r.Context(), Namespace, rec.Pod)
	if pid == 0 || !s.current(c).running() {
		return conflict("container %s is not running", rec.ID)
	}
	args := strings.Fields(r.FormValue("ps_args"))
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	for _, a := range args { // they go to a program of the host
		if strings.ContainsAny(a, "/\x00") {
			return invalid("invalid ps arguments %q", a)
		}
	}
	out, err := exec.CommandContext(r.Context(), "ps", args...).Output()
	if err != nil {
		return fmt.Errorf("list processes with the host's ps %s: %w", strings.Join(args, " "), err)
	}
	titles, processes, err := selectProcesses(out, processesOf(pid))
	if err != nil {
		return err
	}
	return ok(w, types.TopResponse{Titles: titles, Processes: processes})
}

// processesOf are all processes in the control group of a container's first one.
func processesOf(pid int) map[int]bool {
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil
	}
	found := map[int]bool{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		group, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if n, nerr := strconv.Atoi(filepath.Base(dir)); err == nil && nerr == nil && bytes.Equal(group, own) {
			found[n] = true
		}
	}
	return found
}

func selectProcesses(ps []byte, wanted map[int]bool) (titles []string, processes [][]string, err error) {
	lines := strings.Split(strings.TrimRight(string(ps), "\n"), "\n")
	titles = strings.Fields(lines[0])
	at := slices.Index(titles, "PID")
	if at < 0 {
		return nil, nil, invalid("couldn't find PID field in ps output")
	}
	processes = [][]string{}
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) < len(titles) {
			continue
		}
		if n, err := strconv.Atoi(fields[at]); err == nil && wanted[n] {
			last := len(titles) - 1
			processes = append(processes, append(slices.Clone(fields[:last]), strings.Join(fields[last:], " ")))
		}
	}
	return titles, processes, nil
}

// serveUpdate changes limits, at once if the container runs, and the restart policy.
func (s *Server) serveUpdate(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	var req types.UpdateConfig
	if err := decode(r, &req); err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	rec := s.recordOf(c)
	h := *rec.HostConfig
	h.Resources = req.Resources
	warnings, err := refuse(rec.Config, &h)
	if err != nil {
		return err
	}
	wanted := *rec.HostConfig
	if req.PidsLimit != nil && *req.PidsLimit != 0 {
		wanted.PidsLimit = req.PidsLimit
	}
	for value, to := range map[*int64]*int64{&req.Memory: &wanted.Memory, &req.NanoCPUs: &wanted.NanoCPUs, &req.CPUShares: &wanted.CPUShares, &req.CPUQuota: &wanted.CPUQuota,
		&req.CPUPeriod: &wanted.CPUPeriod, &req.MemoryReservation: &wanted.MemoryReservation, &req.MemorySwap: &wanted.MemorySwap} {
		if *value != 0 {
			*to = *value
		}
	}
	if p := req.RestartPolicy; p.Name != "" {
		if restartPolicyOf(p) != restartPolicyOf(wanted.RestartPolicy) && rec.Pod != "" {
			warnings = append(warnings, "A pod's restart policy cannot change: the new one counts from the next start on.")
		}
		wanted.RestartPolicy = p
	}
	if rec.Pod != "" && s.current(c).running() {
		if err := s.limitPod(r.Context(), c, &wanted); err != nil {
			return err
		}
	}
	if err := s.change(r.Context(), c, func(rec *record) { rec.HostConfig = &wanted }); err != nil {
		return err
	}
	rec = s.recordOf(c)
	s.containerEvent(&rec, "update", nil)
	if warnings == nil {
		warnings = []string{}
	}
	return ok(w, types.UpdateResponse{Warnings: warnings})
}

// limitPod gives a running container other limits.
func (s *Server) limitPod(ctx context.Context, c *container, h *types.HostConfig) error {
	s.mu.Lock()
	old, pod := c.rec, c.pod
	s.mu.Unlock()
	if h.PidsLimit != old.HostConfig.PidsLimit && pod != nil {
		extras, err := runtime.ParseExtras(pod.Annotations[annotationExtras])
		if err != nil {
			return err
		}
		extras.PidsLimit = *h.PidsLimit
		text, err := extrasText(extras)
		if err != nil {
			return err
		}
		// For the next run of this pod, and then for this one.
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{annotationExtras: text}}})
		if err != nil {
			return err
		}
		if _, err := s.client.CoreV1().Pods(Namespace).Patch(ctx, old.Pod, "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("update container %s: %w", old.Name, err)
		}
		if err := s.cfg.Machine.LimitProcesses(ctx, Namespace, old.Pod, extras.PidsLimit); err != nil {
			return fmt.Errorf("update container %s: --pids-limit: %w", old.Name, err)
		}
	}
	return s.resizePod(ctx, old.Pod, h)
}

func (s *Server) resizePod(ctx context.Context, pod string, h *types.HostConfig) error {
	type containerPatch struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources"`
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"containers": []containerPatch{{containerName, resourcesOf(h)}}}})
	if err != nil {
		return err
	}
	_, err = s.client.CoreV1().Pods(Namespace).Patch(ctx, pod, "application/strategic-merge-patch+json", patch, metav1.PatchOptions{}, "resize")
	if err != nil {
		return invalid("the limits cannot be changed while it runs: %v; stop it, change them and start it again", err)
	}
	return nil
}
