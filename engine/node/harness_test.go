package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/engine/network"
	"github.com/gantryhq/gantry/engine/node/runtime"
)

// fakeDriver simulates containers in memory: what each does is a behaviour.
type fakeDriver struct {
	mu         sync.Mutex
	containers map[string]*fakeContainer
	events     chan runtime.State
	behave     map[string]behaviour // by container name
	starts     []string             // container names in order of start
	signals    []string             // "name:signal" in order
	updates    []runtime.Resources
	startErr   error
}

// behaviour is what a simulated container does.
type behaviour struct {
	exitAfter time.Duration // zero: runs until stopped
	exitCode  int
	oom       bool
	onTerm    time.Duration // how long it takes to end after SIGTERM; negative: ignores it
}

type fakeContainer struct {
	spec  *runtime.Container
	state runtime.State
}

func newFakeDriver() *fakeDriver {
	return &fakeDriver{containers: map[string]*fakeContainer{}, events: make(chan runtime.State, 100), behave: map[string]behaviour{}}
}

func (d *fakeDriver) Start(_ context.Context, c *runtime.Container) (runtime.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := c.Labels[labelContainer]
	d.starts = append(d.starts, name)
	if d.startErr != nil {
		return runtime.State{}, d.startErr
	}
	if d.containers[c.ID] != nil {
		return runtime.State{}, fmt.Errorf("container %s exists", c.ID)
	}
	fc := &fakeContainer{spec: c, state: runtime.State{ID: c.ID, PodUID: c.PodUID, Labels: c.Labels, PID: 1000 + len(d.containers), Running: true, StartedAt: time.Now()}}
	d.containers[c.ID] = fc
	if b := d.behave[name]; b.exitAfter > 0 {
		time.AfterFunc(b.exitAfter, func() { d.end(c.ID, b.exitCode, b.oom) })
	}
	return fc.state, nil
}

func (d *fakeDriver) end(id string, code int, oom bool) {
	d.mu.Lock()
	fc := d.containers[id]
	if fc == nil || !fc.state.Running {
		d.mu.Unlock()
		return
	}
	fc.state.Running, fc.state.ExitCode, fc.state.OOMKilled, fc.state.FinishedAt = false, code, oom, time.Now()
	st := fc.state
	d.mu.Unlock()
	d.events <- st
}

func (d *fakeDriver) Signal(_ context.Context, id string, sig int, _ bool) error {
	d.mu.Lock()
	fc := d.containers[id]
	if fc == nil {
		d.mu.Unlock()
		return fs.ErrNotExist
	}
	name := fc.spec.Labels[labelContainer]
	d.signals = append(d.signals, fmt.Sprintf("%s:%d", name, sig))
	b := d.behave[name]
	d.mu.Unlock()
	switch {
	case sig == 9:
		d.end(id, 137, false)
	case b.onTerm == 0:
		d.end(id, 0, false)
	case b.onTerm > 0:
		time.AfterFunc(b.onTerm, func() { d.end(id, 143, false) })
	}
	return nil
}

func (d *fakeDriver) Remove(_ context.Context, id string) error {
	d.end(id, 137, false)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.containers[id] == nil {
		return fs.ErrNotExist
	}
	delete(d.containers, id)
	return nil
}

func (d *fakeDriver) List(context.Context) ([]runtime.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []runtime.State
	for _, fc := range d.containers {
		out = append(out, fc.state)
	}
	return out, nil
}

func (d *fakeDriver) Events(context.Context) <-chan runtime.State { return d.events }

func (d *fakeDriver) Exec(ctx context.Context, id string, e runtime.Exec, s runtime.Streams) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if fc := d.containers[id]; fc == nil || !fc.state.Running {
		return 0, fs.ErrNotExist
	}
	if e.Args[0] == "false" {
		fmt.Fprint(s.Stdout, "no")
		return 1, nil
	}
	return 0, nil
}

func (d *fakeDriver) Attach(context.Context, string, runtime.Streams) error { return nil }
func (d *fakeDriver) Pause(context.Context, string) error                   { return nil }
func (d *fakeDriver) Resume(context.Context, string) error                  { return nil }
func (d *fakeDriver) Expect()                                               {}
func (d *fakeDriver) ReopenLog(context.Context, string) error               { return nil }
func (d *fakeDriver) Update(_ context.Context, _ string, r runtime.Resources) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.updates = append(d.updates, r)
	return nil
}

func (d *fakeDriver) updated() []runtime.Resources {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]runtime.Resources(nil), d.updates...)
}

func (d *fakeDriver) Stats(context.Context, string) (runtime.Stats, error) {
	return runtime.Stats{}, nil
}
func (d *fakeDriver) started() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.starts...)
}
func (d *fakeDriver) signalled() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.signals...)
}
func (d *fakeDriver) count() int { d.mu.Lock(); defer d.mu.Unlock(); return len(d.containers) }
func (d *fakeDriver) spec(name string) *runtime.Container {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, fc := range d.containers {
		if fc.spec.Labels[labelContainer] == name {
			return fc.spec
		}
	}
	return nil
}

// fakeImages has every image except the ones named missing.
type fakeImages struct {
	dir     string
	mu      sync.Mutex
	missing map[string]error  // pull error by name; a pull without error makes it present
	moved   map[string]string // what a name stands for instead of itself
	pulls   int
	config  ocispec.ImageConfig
}

func (f *fakeImages) image(ref string) *image.Image {
	ref = strings.TrimPrefix(ref, "docker.io/library/")
	img := &image.Image{Name: "docker.io/library/" + ref, Digest: digest.FromString(cmp.Or(f.moved[ref], ref)).String(), Size: 42}
	img.Config.Config = f.config
	return img
}

func (f *fakeImages) Pull(_ context.Context, ref string, _ image.PullOptions) (*image.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pulls++
	if err := f.missing[ref]; err != nil {
		return nil, err
	}
	delete(f.missing, ref)
	return f.image(ref), nil
}

func (f *fakeImages) Get(_ context.Context, ref string) (*image.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.missing[ref]; ok {
		return nil, fs.ErrNotExist
	}
	return f.image(ref), nil
}

// move makes a name stand for another image.
func (f *fakeImages) move(name, to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moved[name] = to
}

func (f *fakeImages) List(context.Context) ([]*image.Image, error) { return nil, nil }
func (f *fakeImages) Mount(_ context.Context, id, _ string, _ []string) (string, error) {
	dir := f.dir + "/" + id
	return dir, os.MkdirAll(dir, 0o755)
}
func (f *fakeImages) MountMapped(ctx context.Context, id, ref string, targets []string, _ image.IDMapping) (string, error) {
	return f.Mount(ctx, id, ref, targets)
}
func (f *fakeImages) MountKept(ctx context.Context, id, name string) (string, error) {
	return "", fs.ErrNotExist
}

func (f *fakeImages) Written(id string) string { return "/nonexistent/" + id }

func (f *fakeImages) MountReadOnly(ctx context.Context, id, ref string) (string, error) {
	return f.Mount(ctx, id, ref, nil)
}
func (f *fakeImages) Unmount(_ context.Context, id string) error {
	return os.RemoveAll(f.dir + "/" + id)
}
func (f *fakeImages) Roots(context.Context) ([]image.Root, error) {
	entries, err := os.ReadDir(f.dir)
	var roots []image.Root
	for _, e := range entries {
		roots = append(roots, image.Root{ID: e.Name()})
	}
	return roots, err
}
func (f *fakeImages) GC(context.Context, func(digest.Digest) bool, ...image.GCOption) (image.Freed, error) {
	return image.Freed{}, nil
}

// fakeNetwork hands out addresses and namespaces that exist only as files.
type fakeNetwork struct {
	dir string
	mu  sync.Mutex
	ips map[string]netip.Addr
	// withdrawn, when not nil, is closed when no service offers a pod's address any more.
	withdrawn chan struct{}
	clients   int // connections of the host to any pod
	traffic   []network.Traffic
}

func (f *fakeNetwork) Attach(_ context.Context, p network.Pod) (network.Attachment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ip, ok := f.ips[p.UID]
	if !ok {
		ip = netip.AddrFrom4([4]byte{10, 244, 0, byte(10 + len(f.ips))})
		f.ips[p.UID] = ip
	}
	path := f.dir + "/" + p.UID
	return network.Attachment{NetNS: path, IP: ip}, os.WriteFile(path, nil, 0o600)
}

func (f *fakeNetwork) Detach(_ context.Context, uid string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ips, uid)
	return nil
}

func (f *fakeNetwork) Traffic() ([]network.Traffic, error) { return f.traffic, nil }
func (f *fakeNetwork) DNS() netip.Addr                     { return netip.MustParseAddr("10.96.0.10") }
func (f *fakeNetwork) Withdrawn(netip.Addr) (<-chan struct{}, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.withdrawn, f.withdrawn != nil
}
func (f *fakeNetwork) Clients(netip.Addr) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clients, nil
}
func (f *fakeNetwork) connect(clients int) { f.mu.Lock(); defer f.mu.Unlock(); f.clients = clients }
func (f *fakeNetwork) attached() int       { f.mu.Lock(); defer f.mu.Unlock(); return len(f.ips) }

// noKernel makes directories where the real one makes mounts.
type noKernel struct{}

func (noKernel) mountMemory(string, string) error { return nil }
func (noKernel) releaseIDs(*runtime.UserNS)       {}
func (noKernel) claimIDs(string) (*runtime.UserNS, error) {
	return &runtime.UserNS{HostID: firstPodID, Length: idsPerPod}, nil
}
func (noKernel) unpin(dir string) error { return os.RemoveAll(dir) }
func (noKernel) pin(p pins) error {
	if err := os.MkdirAll(p.shared(), 0o755); err != nil {
		return err
	}
	return p.directories()
}

type noTokens struct{}

func (noTokens) GetServiceAccountToken(string, string, *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	return nil, errors.New("no tokens here")
}
func (noTokens) DeleteServiceAccountToken(types.UID) {}

// rig is a node on fakes, inside a synctest bubble.
type rig struct {
	t      *testing.T
	dir    string
	driver *fakeDriver
	images *fakeImages
	net    *fakeNetwork
	client *fake.Clientset
	node   *Node
	stop   func()

	mu       sync.Mutex       // guards following
	unwanted map[string]error // names and digests of images that may not be used, and why
}

// admit is the node's Config.Admit.
func (r *rig) admit(_ context.Context, _ *v1.Pod, image, digest string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.unwanted[image], r.unwanted[digest])
}

// want says that an image may not be used, or may again.
func (r *rig) want(image string, refusal error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unwanted[image] = refusal
}

// newAPI is a fake API that keeps status and the rest of a pod apart, as the real one does: by
// itself the fake has a status written from an older pod undo a deletion that came between.
func newAPI(objects ...apiruntime.Object) *fake.Clientset {
	client := fake.NewClientset(objects...)
	client.PrependReactor("update", "pods", func(action clienttesting.Action) (bool, apiruntime.Object, error) {
		update := action.(clienttesting.UpdateAction)
		written := update.GetObject().(*v1.Pod)
		stored, err := client.Tracker().Get(action.GetResource(), written.Namespace, written.Name)
		if err != nil {
			return true, nil, err
		}
		pod := written.DeepCopy()
		if action.GetSubresource() == "status" {
			pod = stored.(*v1.Pod).DeepCopy()
			pod.Status = written.Status
		} else {
			pod.Status = stored.(*v1.Pod).Status
		}
		return true, pod, client.Tracker().Update(action.GetResource(), pod, pod.Namespace)
	})
	return client
}

func newRig(t *testing.T, pods ...*v1.Pod) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "gantry-node-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &rig{t: t, dir: dir, driver: newFakeDriver(), client: newAPI(), unwanted: map[string]error{}}
	for _, sub := range []string{"roots", "netns"} {
		if err := os.MkdirAll(dir+"/"+sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.images = &fakeImages{dir: dir + "/roots", missing: map[string]error{}, moved: map[string]string{}, config: ocispec.ImageConfig{Cmd: []string{"/app"}, Env: []string{"PATH=/bin"}}}
	r.net = &fakeNetwork{dir: dir + "/netns", ips: map[string]netip.Addr{}}
	for _, p := range pods {
		r.create(p)
	}
	r.start()
	return r
}

// start runs a node, as a new process would on what an earlier one left.
func (r *rig) start() {
	r.t.Helper()
	cfg := Config{
		Client: &rest.Config{}, DataDir: r.dir + "/data", NodeName: "n1", NodeIP: netip.MustParseAddr("192.0.2.1"),
		Driver: r.driver, Images: r.images, Network: r.net, Admit: r.admit,
		Log: slog.New(slog.NewTextHandler(testWriter{r.t}, nil)),
	}
	if err := cfg.complete(); err != nil {
		r.t.Fatal(err)
	}
	n, err := newNode(cfg, r.client, noTokens{})
	if err != nil {
		r.t.Fatal(err)
	}
	n.kernel = noKernel{}
	r.node = n
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil && ctx.Err() == nil {
			r.t.Errorf("node ended: %v", err)
		}
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) { w.t.Log(string(p)); return len(p), nil }

func (r *rig) create(p *v1.Pod) {
	r.t.Helper()
	if _, err := r.client.CoreV1().Pods(p.Namespace).Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) pod(name string) *v1.Pod {
	r.t.Helper()
	p, err := r.client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return p
}

// events are what was told about a pod.
func (r *rig) events(name string) string {
	r.t.Helper()
	list, err := r.client.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	told := ""
	for _, e := range list.Items {
		if e.InvolvedObject.Name == name {
			told += e.Reason + ": " + e.Message + "\n"
		}
	}
	return told
}

// remove begins a graceful deletion, as the API server does.
func (r *rig) remove(name string, grace int64) {
	r.t.Helper()
	p := r.pod(name).DeepCopy()
	at := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, &grace
	if _, err := r.client.CoreV1().Pods(p.Namespace).Update(context.Background(), p, metav1.UpdateOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

func aPod(name string, containers ...v1.Container) *v1.Pod {
	grace := int64(30)
	for i := range containers {
		if containers[i].Image == "" {
			containers[i].Image = "app:1"
		}
		containers[i].ImagePullPolicy = v1.PullIfNotPresent
	}
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name + "-0000-uid")},
		Spec: v1.PodSpec{
			NodeName: "n1", Containers: containers, RestartPolicy: v1.RestartPolicyAlways, DNSPolicy: v1.DNSClusterFirst,
			TerminationGracePeriodSeconds: &grace, SecurityContext: &v1.PodSecurityContext{}, // as the API server fills it in
		},
	}
}

func condition(p *v1.Pod, kind v1.PodConditionType) v1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return "absent"
}
