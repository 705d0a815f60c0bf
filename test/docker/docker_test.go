// Package docker holds the Docker Engine API against what programs expect of it that
// drive it through moby's own client, as Testcontainers and build plugins do. What people
// type is told in test/script.
package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

// patience is how long anything may take on a busy machine.
const patience = time.Minute

type env struct {
	*client.Client
	in    *instance.Instance
	image string
}

func TestPrograms(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	listen := freePort(t)
	in := instance.Start(t, instance.Options{Args: []string{"--docker-listen", listen}})
	in.BaseImages(t)
	c, err := client.New(client.WithHost("unix://" + filepath.Join(in.DataDir, "docker.sock")))
	check(t, err)
	e := env{c, in, in.Registry + "/base/busybox:latest"}
	ctx := context.Background()
	pull, err := e.ImagePull(ctx, e.image, client.ImagePullOptions{})
	check(t, err)
	check(t, pull.Wait(ctx))
	for name, test := range map[string]func(*testing.T, env){
		"files copied before the start": filesBeforeTheStart,
		"a reaper by labels":            reaper,
		"exec":                          execs,
		"events and wait":               eventsAndWait,
		"limits change while it runs":   limits,
		"the pod is deleted":            podDeleted,
		"paused":                        paused,
		"other clients":                 formerClients,
		"every option":                  everyOption,
	} {
		t.Run(name, func(t *testing.T) { test(t, e) })
	}
	t.Run("clients from elsewhere", func(t *testing.T) { elsewhere(t, e, listen) })
	t.Run("Gantry starts again", func(t *testing.T) { startedAgain(t, e) })
	t.Run("the namespace is deleted", func(t *testing.T) { namespaceDeleted(t, e) })
}

// create makes a container that is removed at the end.
func (e env) create(t *testing.T, config container.Config, host *container.HostConfig) string {
	t.Helper()
	if config.Image == "" {
		config.Image = e.image
	}
	got, err := e.ContainerCreate(t.Context(), client.ContainerCreateOptions{Config: &config, HostConfig: host})
	check(t, err)
	t.Cleanup(func() {
		_, _ = e.ContainerRemove(context.Background(), got.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true}) // it may be gone
	})
	return got.ID
}

func (e env) start(t *testing.T, id string) {
	t.Helper()
	_, err := e.ContainerStart(t.Context(), id, client.ContainerStartOptions{})
	check(t, err)
}

// output runs a container to its end and returns what it said.
func (e env) output(t *testing.T, id string) (stdout, stderr string, code int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	wait := e.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	e.start(t, id)
	select {
	case r := <-wait.Result:
		code = r.StatusCode
	case err := <-wait.Error:
		t.Fatal(err)
	}
	logs, err := e.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
	check(t, err)
	defer logs.Close()
	var out, errOut bytes.Buffer
	_, err = stdcopy.StdCopy(&out, &errOut, logs)
	check(t, err)
	return out.String(), errOut.String(), code
}

func archive(t *testing.T, name, text string) io.Reader {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	check(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(text))}))
	_, err := w.Write([]byte(text))
	check(t, err)
	check(t, w.Close())
	return &buf
}

// Testcontainers copies scripts into a container that it has only created.
func filesBeforeTheStart(t *testing.T, e env) {
	id := e.create(t, container.Config{Cmd: []string{"/start.sh"}, Volumes: map[string]struct{}{"/data": {}}}, nil)
	_, err := e.CopyToContainer(t.Context(), id, client.CopyToContainerOptions{DestinationPath: "/", Content: archive(t, "start.sh", "#!/bin/sh\necho from the script; cat /data/note; echo done >&2; exit 4\n")})
	check(t, err)
	_, err = e.CopyToContainer(t.Context(), id, client.CopyToContainerOptions{DestinationPath: "/data", Content: archive(t, "note", "from the volume\n")})
	check(t, err)
	stdout, stderr, code := e.output(t, id)
	if stdout != "from the script\nfrom the volume\n" || stderr != "done\n" || code != 4 {
		t.Errorf("it said %q and %q and ended with %d", stdout, stderr, code)
	}
	got, err := e.CopyFromContainer(t.Context(), id, client.CopyFromContainerOptions{SourcePath: "/data/note"})
	check(t, err)
	defer got.Content.Close()
	if h, err := tar.NewReader(got.Content).Next(); err != nil || h.Name != "note" || got.Stat.Size != int64(len("from the volume\n")) {
		t.Errorf("got %+v, %+v, %v", h, got.Stat, err)
	}
	_, err = e.CopyToContainer(t.Context(), id, client.CopyToContainerOptions{DestinationPath: "/", Content: archive(t, "../../../../tmp/evil-"+id[:12], "evil")})
	if err == nil || !strings.Contains(err.Error(), "leads out") {
		t.Errorf("a hostile archive: %v", err)
	}
}

// Ryuk removes everything that has a session's label.
func reaper(t *testing.T, e env) {
	ctx := t.Context()
	labels := map[string]string{"org.testcontainers.session-id": "abc"}
	id := e.create(t, container.Config{Cmd: []string{"sleep", "1000"}, Labels: labels}, nil)
	other := e.create(t, container.Config{Cmd: []string{"true"}, Labels: map[string]string{"org.testcontainers.session-id": "def"}}, nil)
	e.start(t, id)
	n, err := e.NetworkCreate(ctx, "reaped", client.NetworkCreateOptions{Labels: labels})
	check(t, err)
	_, err = e.VolumeCreate(ctx, client.VolumeCreateOptions{Name: "reaped", Labels: labels})
	check(t, err)
	mine := make(client.Filters).Add("label", "org.testcontainers.session-id=abc")
	list, err := e.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: mine})
	check(t, err)
	if len(list.Items) != 1 || list.Items[0].ID != id {
		t.Fatalf("containers of the session: %+v", list.Items)
	}
	_, err = e.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	check(t, err)
	networks, err := e.NetworkList(ctx, client.NetworkListOptions{Filters: mine})
	check(t, err)
	if len(networks.Items) != 1 || networks.Items[0].ID != n.ID {
		t.Errorf("networks of the session: %+v", networks.Items)
	}
	_, err = e.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
	check(t, err)
	volumes, err := e.VolumeList(ctx, client.VolumeListOptions{Filters: mine})
	check(t, err)
	if len(volumes.Items) != 1 {
		t.Errorf("volumes of the session: %+v", volumes.Items)
	}
	_, err = e.VolumeRemove(ctx, "reaped", client.VolumeRemoveOptions{})
	check(t, err)
	if _, err := e.ContainerInspect(ctx, other, client.ContainerInspectOptions{}); err != nil {
		t.Errorf("another session's container: %v", err)
	}
}

func execs(t *testing.T, e env) {
	ctx := t.Context()
	id := e.create(t, container.Config{Cmd: []string{"sleep", "1000"}, Env: []string{"A=1"}}, nil)
	e.start(t, id)
	x, err := e.ExecCreate(ctx, id, client.ExecCreateOptions{AttachStdout: true, AttachStderr: true, Env: []string{"B=2"}, WorkingDir: "/etc", Cmd: []string{"sh", "-c", "echo $A$B; pwd; echo bad >&2; exit 9"}})
	check(t, err)
	attached, err := e.ExecAttach(ctx, x.ID, client.ExecAttachOptions{})
	check(t, err)
	defer attached.Close()
	var out, errOut bytes.Buffer
	_, err = stdcopy.StdCopy(&out, &errOut, attached.Reader)
	check(t, err)
	if out.String() != "12\n/etc\n" || errOut.String() != "bad\n" {
		t.Errorf("it said %q and %q", out.String(), errOut.String())
	}
	seen, err := e.ExecInspect(ctx, x.ID, client.ExecInspectOptions{})
	check(t, err)
	if seen.Running || seen.ExitCode != 9 || seen.ContainerID != id {
		t.Errorf("inspected: %+v", seen)
	}
	if _, err := e.ExecAttach(ctx, x.ID, client.ExecAttachOptions{}); err == nil {
		t.Error("a command ran twice")
	}
}

func eventsAndWait(t *testing.T, e env) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id := e.create(t, container.Config{Cmd: []string{"sh", "-c", "exit 3"}, Labels: map[string]string{"told": "yes"}}, &container.HostConfig{AutoRemove: true})
	told := e.Events(ctx, client.EventsListOptions{Filters: make(client.Filters).Add("type", "container").Add("label", "told=yes")})
	removed := e.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
	e.start(t, id)
	var actions []string
	for len(actions) == 0 || actions[len(actions)-1] != "destroy" {
		select {
		case m := <-told.Messages:
			actions = append(actions, string(m.Action))
			if m.Action == "die" && m.Actor.Attributes["exitCode"] != "3" {
				t.Errorf("died with %v", m.Actor.Attributes)
			}
		case err := <-told.Err:
			t.Fatal(err)
		}
	}
	if got := strings.Join(actions, " "); got != "start die destroy" {
		t.Errorf("events: %s", got)
	}
	select {
	case r := <-removed.Result:
		if r.StatusCode != 3 {
			t.Errorf("waited until it was removed: %+v", r)
		}
	case err := <-removed.Error:
		t.Fatal(err)
	}
}

func limits(t *testing.T, e env) {
	port, _ := network.PortFrom(80, network.TCP)
	id := e.create(t, container.Config{Cmd: []string{"sleep", "1000"}, ExposedPorts: network.PortSet{port: {}}},
		&container.HostConfig{PortBindings: network.PortMap{port: {{HostIP: netip.MustParseAddr("127.0.0.1")}}}})
	e.start(t, id)
	_, err := e.ContainerUpdate(t.Context(), id, client.ContainerUpdateOptions{Resources: &container.Resources{Memory: 64 << 20}})
	check(t, err)
	got, err := e.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
	check(t, err)
	if got.Container.HostConfig.Memory != 64<<20 || !got.Container.State.Running {
		t.Errorf("memory %d, state %+v", got.Container.HostConfig.Memory, got.Container.State)
	}
	if b := got.Container.NetworkSettings.Ports[port]; len(b) != 1 || b[0].HostPort == "" || b[0].HostIP.String() != "127.0.0.1" {
		t.Errorf("published: %+v", b)
	}
}

// What is deleted by the other door is a container that was stopped.
func podDeleted(t *testing.T, e env) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id := e.create(t, container.Config{Cmd: []string{"sh", "-c", "echo run >>/runs; wc -l </runs; exec sleep 1000"}}, nil)
	e.start(t, id)
	pods := e.in.Client(t).CoreV1().Pods("docker")
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "gantry.dev/docker-id=" + id[:32]})
	check(t, err)
	if len(list.Items) != 1 {
		t.Fatalf("%d pods", len(list.Items))
	}
	ended := e.ContainerWait(ctx, id, client.ContainerWaitOptions{})
	now := int64(1)
	check(t, pods.Delete(ctx, list.Items[0].Name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
	select {
	case <-ended.Result:
	case err := <-ended.Error:
		t.Fatal(err)
	}
	for { // until the object is gone, too
		got, err := e.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		check(t, err)
		if left, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "gantry.dev/docker-id=" + id[:32]}); err == nil && len(left.Items) == 0 && got.Container.State.Status == container.StateExited {
			break
		}
	}
	e.start(t, id)
	logs, err := e.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	check(t, err)
	defer logs.Close()
	for text := ""; !strings.Contains(text, "2\n"); {
		buf := make([]byte, 1024)
		n, err := logs.Read(buf)
		text += string(buf[:n])
		if err != nil && !strings.Contains(text, "2\n") {
			t.Fatalf("the log is %q: %v", text, err)
		}
	}
}

// A paused container does nothing, can be looked at, and goes on or is ended.
func paused(t *testing.T, e env) {
	ctx := t.Context()
	id := e.create(t, container.Config{Cmd: []string{"sh", "-c", "n=0; while true; do n=$((n+1)); echo $n >/count.new; mv /count.new /count; sleep 0.02; done"}}, nil)
	e.start(t, id)
	count := func() string {
		got, err := e.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: "/count"})
		if err != nil {
			return ""
		}
		defer got.Content.Close()
		in := tar.NewReader(got.Content)
		_, err = in.Next()
		check(t, err)
		text, err := io.ReadAll(in)
		check(t, err)
		return string(text)
	}
	changes := func() bool {
		before := count()
		for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if count() != before {
				return true
			}
		}
		return false
	}
	for deadline := time.Now().Add(patience); !changes(); {
		if time.Now().After(deadline) {
			t.Fatal("it does not count")
		}
	}
	_, err := e.ContainerPause(ctx, id, client.ContainerPauseOptions{})
	check(t, err)
	got, err := e.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	check(t, err)
	if s := got.Container.State; s.Status != container.StatePaused || !s.Paused || !s.Running {
		t.Errorf("state %+v", s)
	}
	if changes() {
		t.Error("it counts while it is paused")
	}
	if _, err := e.ContainerPause(ctx, id, client.ContainerPauseOptions{}); err == nil {
		t.Error("paused twice")
	}
	if _, err := e.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "unpause") {
		t.Errorf("a command in a paused container: %v", err)
	}
	_, err = e.ContainerUnpause(ctx, id, client.ContainerUnpauseOptions{})
	check(t, err)
	for deadline := time.Now().Add(patience); !changes(); {
		if time.Now().After(deadline) {
			t.Fatal("it does not go on")
		}
	}
	_, err = e.ContainerPause(ctx, id, client.ContainerPauseOptions{})
	check(t, err)
	now := 1
	_, err = e.ContainerStop(ctx, id, client.ContainerStopOptions{Timeout: &now})
	check(t, err)
	e.start(t, id)
	got, err = e.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	check(t, err)
	if got.Container.State.Status != container.StateRunning {
		t.Errorf("started again: %+v", got.Container.State)
	}
	_, err = e.ContainerPause(ctx, id, client.ContainerPauseOptions{})
	check(t, err)
	_, err = e.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true})
	check(t, err)
}

// Containers of every kind of network, and a paused one, outlive Gantry as they are.
func startedAgain(t *testing.T, e env) {
	ctx := t.Context()
	sleeper := container.Config{Cmd: []string{"sleep", "100000"}}
	first := e.create(t, sleeper, nil)
	e.start(t, first)
	ids := []string{first}
	for _, h := range []container.HostConfig{{NetworkMode: "none"}, {NetworkMode: "host"}, {NetworkMode: container.NetworkMode("container:" + first), PidMode: container.PidMode("container:" + first)}, {}} {
		id := e.create(t, sleeper, &h)
		e.start(t, id)
		ids = append(ids, id)
	}
	last := ids[len(ids)-1]
	_, err := e.ContainerPause(ctx, last, client.ContainerPauseOptions{})
	check(t, err)
	before := map[string]int{}
	for _, id := range ids {
		before[id] = e.state(t, id).Pid
	}
	e.in.Stop(t, syscall.SIGTERM)
	e.in.Serve(t)
	for _, id := range ids {
		if s := e.state(t, id); !s.Running || s.Pid != before[id] || s.Pid == 0 || s.Paused != (id == last) {
			t.Errorf("a container that was process %d is %+v", before[id], s)
		}
	}
	_, err = e.ContainerUnpause(ctx, last, client.ContainerUnpauseOptions{})
	check(t, err)
	for _, id := range ids[1:3] { // the next run is like the first
		now := 0
		_, err := e.ContainerRestart(ctx, id, client.ContainerRestartOptions{Timeout: &now})
		check(t, err)
		if s := e.state(t, id); !s.Running || s.Pid == before[id] {
			t.Errorf("after a restart process %d is %+v", before[id], s)
		}
	}
}

// Who deletes the namespace deletes what docker had, and docker goes on from there.
func namespaceDeleted(t *testing.T, e env) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	id := e.create(t, container.Config{Cmd: []string{"sleep", "1000"}}, nil)
	e.start(t, id)
	_, err := e.NetworkCreate(ctx, "doomed", client.NetworkCreateOptions{})
	check(t, err)
	check(t, e.in.Client(t).CoreV1().Namespaces().Delete(ctx, "docker", metav1.DeleteOptions{}))
	for { // a request before the namespace is gone waits for that, or says what it waits for
		list, err := e.ContainerList(ctx, client.ContainerListOptions{All: true})
		if err == nil && len(list.Items) == 0 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("docker does not recover: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if _, err := e.NetworkInspect(ctx, "doomed", client.NetworkInspectOptions{}); err == nil {
		t.Error("a network outlived the namespace")
	}
	after := e.create(t, container.Config{Cmd: []string{"echo", "again"}}, nil)
	if out, _, code := e.output(t, after); out != "again\n" || code != 0 {
		t.Errorf("afterwards a container says %q and ends with %d", out, code)
	}
	for { // what the former containers wrote is gone from the disk, too
		left, err := filepath.Glob(filepath.Join(e.in.DataDir, "images/roots/kept.docker."+id+"*"))
		check(t, err)
		if len(left) == 0 {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("left: %v", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A client from elsewhere needs an administrator's certificate.
func elsewhere(t *testing.T, e env, listen string) {
	cfg, err := clientcmd.BuildConfigFromFlags("", e.in.Kubeconfig())
	check(t, err)
	dir := t.TempDir()
	for name, data := range map[string][]byte{"ca.pem": cfg.CAData, "cert.pem": cfg.CertData, "key.pem": cfg.KeyData} {
		check(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	c, err := client.New(client.WithHost("tcp://"+listen), client.WithTLSClientConfig(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")))
	check(t, err)
	if _, err := c.Info(t.Context(), client.InfoOptions{}); err != nil {
		t.Errorf("an administrator: %v", err)
	}
	conn, err := tls.Dial("tcp", listen, &tls.Config{InsecureSkipVerify: true})
	if err == nil { // with TLS 1.3 the refusal comes with the first answer
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	if err == nil {
		t.Error("somebody without a certificate was let in")
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().String()
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
