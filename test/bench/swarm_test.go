package bench

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// swarm is Docker Swarm as a peer: a dockerd of its own, with its own containerd,
// in network, mount and process namespaces of its own. So it touches neither the
// machine's interfaces and firewall nor another Docker, and when its first
// process is killed the kernel takes everything back but files and cgroups.
//
// Its service is as near to Gantry's as Swarm comes: the same root file system,
// command, user and limits, and an address for each task on an overlay network
// with the service's name in DNS (endpoint mode dnsrr: Swarm's virtual addresses
// need the kernel's IPVS, which is not everywhere, and cost it extra time). A task
// counts when Swarm says that it is running: without a health check, which would
// slow it down, and without a proof that it serves. All of this is in its favour.
type swarm struct {
	t        testing.TB
	dir      string // of the daemon: short, for the path of its socket
	cgroup   string // parent of all containers, below each hierarchy
	first    *exec.Cmd
	http     *http.Client
	service  string
	replicas int
	alive    atomic.Int64  // containers, by the daemon's events
	changes  chan struct{} // has a value when alive has changed
}

// swarmBoot is the first process of the namespaces: it reaps what is orphaned there.
const swarmBoot = `set -e
mount --make-rprivate /
mount -t proc proc /proc
mkdir -p "$1/cgroup" "$1/tmp"
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /etc/docker
mount -t tmpfs tmpfs /etc/docker
ip link set lo up
ip link add swarm0 type bridge
ip addr add 192.0.2.1/24 dev swarm0
ip link set swarm0 up
dockerd --host "unix://$1/docker.sock" --data-root "$1/data" --exec-root /run/docker --pidfile /run/docker.pid \
	--cgroup-parent "$2" --log-level error &
wait
`

// swarmAddress is where the manager listens, inside its namespace.
const swarmAddress = "192.0.2.1"

// swarmMissing names the programs that have to be installed for this peer, if any.
func swarmMissing() []string {
	var missing []string
	for _, name := range []string{"dockerd", "containerd", "runc", "iptables", "ip"} {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	return missing
}

// startSwarm starts the daemon and makes a service without tasks. Layer is the
// root file system of its image.
func startSwarm(t testing.TB, layer []byte) *swarm {
	t.Helper()
	dir, err := os.MkdirTemp("", "swarm")
	must(t, err)
	s := &swarm{t: t, dir: dir, cgroup: "/" + filepath.Base(dir), changes: make(chan struct{}, 1)}
	t.Cleanup(s.remove)
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	defer log.Close()
	s.first = exec.Command("sh", "-c", swarmBoot, "swarm", dir, s.cgroup)
	s.first.Stdout, s.first.Stderr = log, log
	s.first.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	must(t, s.first.Start())
	socket := filepath.Join(dir, "docker.sock")
	s.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	for deadline := time.Now().Add(time.Minute); s.call("GET", "/_ping", nil, nil) != nil; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("dockerd does not answer after a minute:\n%s", text)
		}
	}
	must(t, s.call("POST", "/swarm/init", map[string]any{"ListenAddr": swarmAddress + ":2377", "AdvertiseAddr": swarmAddress}, nil))
	must(t, s.call("POST", "/networks/create", map[string]any{"Name": name, "Driver": "overlay"}, nil))
	image := s.load(layer)
	created := struct{ ID string }{}
	must(t, s.call("POST", "/services/create", s.spec(image), &created))
	s.service = created.ID
	go s.follow()
	return s
}

// spec is podSpec in Swarm's words. An image named by its ID is not looked for in registries.
func (s *swarm) spec(image string) map[string]any {
	return map[string]any{
		"Name": name,
		"TaskTemplate": map[string]any{
			"ContainerSpec": map[string]any{
				"Image": image, "Command": webServer, "User": "1000", "StopGracePeriod": 10 * time.Second,
			},
			"Resources": map[string]any{
				"Limits":       map[string]any{"NanoCPUs": 500_000_000, "MemoryBytes": 32 << 20},
				"Reservations": map[string]any{"NanoCPUs": 5_000_000, "MemoryBytes": 8 << 20},
			},
			"Networks": []map[string]any{{"Target": name}},
		},
		"Mode":         map[string]any{"Replicated": map[string]any{"Replicas": 0}},
		"EndpointSpec": map[string]any{"Mode": "dnsrr"},
	}
}

// load makes an image of one layer and returns its ID.
func (s *swarm) load(layer []byte) string {
	s.t.Helper()
	resp, err := s.http.Post("http://docker/images/create?fromSrc=-&repo="+name, "application/x-tar", bytes.NewReader(layer))
	must(s.t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("import the image: %s", resp.Status)
	}
	for lines := json.NewDecoder(resp.Body); ; {
		var line struct{ Status, Error string }
		must(s.t, lines.Decode(&line))
		if strings.HasPrefix(line.Status, "sha256:") {
			return line.Status
		}
		if line.Error != "" {
			s.t.Fatalf("import the image: %s", line.Error)
		}
	}
}

// call is one request to dockerd.
func (s *swarm) call(method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, "http://docker"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, data)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// follow counts the service's running containers from the daemon's events, so that
// waiting costs the daemon next to nothing.
func (s *swarm) follow() {
	filters := url.QueryEscape(`{"type":["container"],"event":["start","die"]}`)
	resp, err := s.http.Get("http://docker/events?filters=" + filters)
	if err != nil {
		return // the waits look now and then by themselves
	}
	defer resp.Body.Close()
	for events := json.NewDecoder(resp.Body); ; {
		var e struct{ Action string }
		if events.Decode(&e) != nil {
			return
		}
		switch e.Action {
		case "start":
			s.alive.Add(1)
		case "die":
			s.alive.Add(-1)
		}
		select {
		case s.changes <- struct{}{}:
		default:
		}
	}
}

// scale changes the number of tasks and waits until that many run and no others exist.
func (s *swarm) scale(replicas int) {
	s.t.Helper()
	var service struct {
		Version struct{ Index int }
		Spec    map[string]any
	}
	must(s.t, s.call("GET", "/services/"+s.service, nil, &service))
	service.Spec["Mode"] = map[string]any{"Replicated": map[string]any{"Replicas": replicas}}
	must(s.t, s.call("POST", fmt.Sprintf("/services/%s/update?version=%d", s.service, service.Version.Index), service.Spec, nil))
	s.wait(replicas)
	s.replicas = replicas
}

func (s *swarm) wait(replicas int) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		all, running, failure, err := s.tasks()
		must(s.t, err)
		if all == replicas && running == replicas {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("after %v, %d of %d tasks run and %d exist; the last failure: %s", patience, running, replicas, all, cmp.Or(failure, "none"))
		}
		pause := time.After(10 * time.Millisecond) // Swarm notes what its containers do a moment later, and that has no event
		for early := time.After(2 * time.Second); int(s.alive.Load()) != replicas && early != nil; {
			select {
			case <-s.changes:
			case <-early:
				early = nil
			}
		}
		<-pause
	}
}

// tasks counts the service's tasks, and those of them that run. A task that has
// failed stays in Swarm's history, beside the one that replaces it.
func (s *swarm) tasks() (all, running int, failure string, err error) {
	var tasks []struct {
		DesiredState string
		Status       struct{ State, Err string }
	}
	filters := url.QueryEscape(fmt.Sprintf(`{"service":[%q]}`, s.service))
	if err := s.call("GET", "/tasks?filters="+filters, nil, &tasks); err != nil {
		return 0, 0, "", err
	}
	for _, task := range tasks {
		switch state := task.Status.State; {
		case task.DesiredState == "shutdown" && (state == "failed" || state == "rejected" || state == "shutdown"):
			failure = cmp.Or(task.Status.Err, failure)
		case state == "running":
			running++
			all++
		default:
			all++
		}
	}
	return all, running, failure, nil
}

// part says whose CPU time a process of the daemon's namespace used: that of the
// nearest ancestor that is a part of Docker.
func (s *swarm) part(table map[int]process, pid int) part {
	kind := nobody
	for up := pid; up > 1; up = table[up].parent {
		if up == s.first.Process.Pid {
			return cmp.Or(kind, containers) // it reaps orphans, all of them made for containers
		}
		if kind != nobody {
			continue
		}
		program, _, _ := strings.Cut(table[up].command, "\x00")
		switch filepath.Base(program) {
		case "dockerd", "containerd":
			kind = control
		case "containerd-shim-runc-v2":
			kind = containers
		}
	}
	return nobody
}

// remove ends the daemon with everything in its namespaces and removes what the
// kernel does not: its files and its cgroups.
func (s *swarm) remove() {
	if s.first != nil && s.first.Process != nil {
		_ = s.first.Process.Kill()
		_ = s.first.Wait()
	}
	hierarchies, _ := filepath.Glob("/sys/fs/cgroup/*" + s.cgroup)
	for _, root := range append(hierarchies, "/sys/fs/cgroup"+s.cgroup) {
		var below []string
		_ = filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				below = append(below, path)
			}
			return nil
		})
		for i := len(below) - 1; i >= 0; i-- { // the innermost first
			if err := removeCgroup(below[i]); err != nil {
				s.t.Errorf("remove Swarm's cgroup: %v", err)
			}
		}
	}
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Errorf("remove Swarm's files: %v", err)
	}
}

// removeCgroup waits for the killed processes in it to be gone.
func removeCgroup(path string) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := syscall.Rmdir(path)
		if err == nil || errors.Is(err, syscall.ENOENT) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
