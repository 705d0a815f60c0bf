package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/kubelet/token"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/engine/node/probe"
	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/engine/node/volume"
	"github.com/gantryhq/gantry/internal/spread"
)

// Node runs the pods bound to this machine.
type Node struct {
	cfg        Config
	log        *slog.Logger
	paths      paths
	host       host
	client     kubernetes.Interface
	teller     *teller
	underway   atomic.Int64 // operations on pods
	crew       crew         // who carry them out
	volumes    *volume.Manager
	prober     *probe.Prober
	probes     probeCounts
	measured   volume.Measured // claimed volumes
	layers     volume.Measured // what containers wrote into their roots
	hookClient *http.Client
	heavy      *semaphore.Weighted // container creations
	statusDue  chan struct{}       // the Node object may be out of date
	kernel     kernel

	halting  atomic.Bool     // see Halt
	ctx      context.Context // of Run
	services corelisters.ServiceLister
	pods     corelisters.PodLister
	ready    chan struct{}

	mu       sync.Mutex // guards following; taken after a worker's, never before it
	workers  map[types.UID]*worker
	found    map[types.UID][]runtime.State // containers of a predecessor without worker yet
	early    map[string]runtime.State      // exits that came before their start was noted
	pressure pressure
	running  sync.WaitGroup
}

// New returns a Node. Run starts it.
func New(cfg Config) (*Node, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(cfg.Client)
	if err != nil {
		return nil, fmt.Errorf("make node client: %w", err)
	}
	return newNode(cfg, client, token.NewManager(client))
}

func newNode(cfg Config, client kubernetes.Interface, tokens volume.Tokens) (*Node, error) {
	h, err := readHost()
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg:        cfg,
		log:        cfg.Log.With("component", "node"),
		paths:      paths{data: cfg.DataDir},
		host:       h,
		client:     client,
		kernel:     &hostKernel{pause: paths{data: cfg.DataDir}.pause()},
		prober:     probe.NewProber(),
		hookClient: hookClient(),
		heavy:      semaphore.NewWeighted(int64(heavyWork())),
		statusDue:  make(chan struct{}, 1),
		ready:      make(chan struct{}),
		workers:    map[types.UID]*worker{},
		found:      map[types.UID][]runtime.State{},
		early:      map[string]runtime.State{},
	}
	n.teller = newTeller(client, cfg.NodeName, &n.underway)
	n.volumes = volume.New(volume.Config{
		Client:       client,
		Tokens:       tokens,
		PodsDir:      n.paths.pods(),
		MemoryDir:    n.paths.memory(),
		Allocatable:  n.allocatable,
		MountImage:   n.mountImageVolume,
		UnmountImage: n.unmountImageVolume,
	})
	return n, nil
}

// Ready is closed when the Node object says Ready and pods are being taken.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Run works until ctx ends. Pods go on running after it.
func (n *Node) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	n.ctx = ctx
	n.crew = newCrew(ctx.Done())
	defer n.running.Wait()
	if err := n.prepare(); err != nil {
		return err
	}
	group.Go(func() error { n.teller.run(ctx); return nil })
	exits := n.cfg.Driver.Events(ctx)
	states, err := n.cfg.Driver.List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, st := range states {
		uid := types.UID(st.PodUID)
		n.found[uid] = append(n.found[uid], st)
	}
	n.removeOrphanRoots(ctx, states)
	if err := n.register(ctx); err != nil {
		return err
	}
	group.Go(func() error { n.followExits(ctx, exits); return nil })
	services := n.startServices(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), services) {
		return ctx.Err()
	}
	pods := n.startPods(ctx)
	group.Go(func() error { n.followReferences(ctx); return nil })
	group.Go(func() error { n.keepLease(ctx); return nil })
	group.Go(func() error { n.keepStatus(ctx); return nil })
	group.Go(func() error { n.watchPressure(ctx); return nil })
	// Every pod has its worker now, and what already ran has been taken over.
	if cache.WaitForCacheSync(ctx.Done(), pods) {
		close(n.ready)
		n.removeOrphans(ctx)
	}
	<-ctx.Done()
	return group.Wait()
}

// prepare makes the directories and mounts what must not be on the disk: secrets,
// and what a sandbox is made of.
func (n *Node) prepare() error {
	for _, dir := range []string{n.paths.pods(), n.paths.logs(), n.paths.memory(), n.paths.sandboxes()} {
		if err := spread.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make node directories: %w", err)
		}
	}
	if err := n.kernel.mountMemory("gantry-sandboxes", n.paths.sandboxes()); err != nil {
		return err
	}
	return n.kernel.mountMemory("gantry-secrets", n.paths.memory())
}

func (n *Node) startServices(ctx context.Context) cache.InformerSynced {
	f := informers.NewSharedInformerFactoryWithOptions(n.client, 0)
	n.services = f.Core().V1().Services().Lister()
	synced := f.Core().V1().Services().Informer().HasSynced
	f.Start(ctx.Done())
	return synced
}

func (n *Node) startPods(ctx context.Context) cache.InformerSynced {
	ours := informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", n.cfg.NodeName).String()
	})
	f := informers.NewSharedInformerFactoryWithOptions(n.client, 0, ours)
	reg, err := f.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { n.podChanged(obj.(*v1.Pod)) },
		UpdateFunc: func(old, obj any) {
			pod := obj.(*v1.Pod)
			if was := old.(*v1.Pod); was.UID != pod.UID {
				n.podRemoved(was)
			}
			n.podChanged(pod)
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if pod, ok := obj.(*v1.Pod); ok {
				n.podRemoved(pod)
			}
		},
	})
	n.pods = f.Core().V1().Pods().Lister()
	if err != nil { // only a stopped informer refuses a handler
		panic(err)
	}
	f.Start(ctx.Done())
	return reg.HasSynced
}

func (n *Node) podChanged(pod *v1.Pod) {
	// A worker's lock is taken before the node's, never after it.
	if w := n.worker(pod.UID); w != nil {
		w.update(pod)
		return
	}
	if n.ctx.Err() != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	w := newWorker(n, pod, n.found[pod.UID])
	delete(n.found, pod.UID)
	n.workers[pod.UID] = w
	n.running.Add(1)
	go func() {
		defer n.running.Done()
		w.run(n.ctx)
	}()
}

func (n *Node) podRemoved(pod *v1.Pod) {
	if w := n.worker(pod.UID); w != nil {
		w.removed(pod)
	}
}

func (n *Node) worker(uid types.UID) *worker {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.workers[uid]
}

func (n *Node) allWorkers() []*worker {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]*worker, 0, len(n.workers))
	for _, w := range n.workers {
		out = append(out, w)
	}
	return out
}

// forget drops a worker that has nothing left to do.
func (n *Node) forget(w *worker) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.workers[w.uid] == w {
		delete(n.workers, w.uid)
		n.probes.forget(string(w.uid))
	}
}

// followExits hands the driver's events to the workers.
func (n *Node) followExits(ctx context.Context, exits <-chan runtime.State) {
	for {
		select {
		case <-ctx.Done():
			return
		case st, ok := <-exits:
			if !ok {
				return
			}
			n.containerExited(st)
		}
	}
}

func (n *Node) containerExited(st runtime.State) {
	if st.Running && st.AdoptedAt.IsZero() {
		return
	}
	w := n.worker(types.UID(st.PodUID))
	if w == nil {
		n.mu.Lock()
		list := n.found[types.UID(st.PodUID)]
		for i := range list {
			if list[i].ID == st.ID {
				list[i] = st
			}
		}
		n.mu.Unlock()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tellAdopted(st)
	if st.Running {
		return
	}
	if st.Labels[labelContainer] == pauseContainer {
		w.sandboxLost()
		return
	}
	if !w.exited(st) && !w.owned[st.ID] {
		n.mu.Lock()
		n.early[st.ID] = st
		n.mu.Unlock()
	}
}

// takeEarlyExit returns the exit of a container that ended before its start was
// recorded.
func (n *Node) takeEarlyExit(id string) (runtime.State, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	st, ok := n.early[id]
	delete(n.early, id)
	return st, ok
}

// newer reports whether a is a later version of an object than b.
func newer(a, b *v1.Pod) bool {
	x, errX := strconv.ParseUint(a.ResourceVersion, 10, 64)
	y, errY := strconv.ParseUint(b.ResourceVersion, 10, 64)
	return errX != nil || errY != nil || x > y
}

func metaChanged(a, b *v1.Pod) bool {
	return !mapsEqual(a.Labels, b.Labels) || !mapsEqual(a.Annotations, b.Annotations)
}

func mapsEqual(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || w != v {
			return false
		}
	}
	return true
}

func hookClient() *http.Client {
	return &http.Client{
		Timeout:   0, // the grace period bounds it
		Transport: &http.Transport{DisableKeepAlives: true, IdleConnTimeout: time.Second},
	}
}

// pidOf returns the process id of a running container, or 0.
func (n *Node) pidOf(uid types.UID, container string) int {
	states, err := n.cfg.Driver.List(n.ctx)
	if err != nil {
		return 0
	}
	for _, st := range states {
		if st.PodUID == string(uid) && st.Running && st.Labels[labelContainer] == container {
			return st.PID
		}
	}
	return 0
}

func (n *Node) envSource(s *sandbox) *envSource {
	return &envSource{
		client:      n.client,
		services:    n.services,
		allocatable: n.allocatable(),
		hostIP:      n.cfg.NodeIP.String(),
		podIPs:      s.IPs,
	}
}

func (p paths) hasPod(uid types.UID) bool {
	_, err := os.Lstat(p.pod(uid))
	return !errors.Is(err, fs.ErrNotExist)
}
