package alerts

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// world is a machine with its workloads, one second after the other.
type world struct {
	now       int
	random    *rand.Rand
	workloads []*workload
	routes    []*route
	claims    []*claim
	machine   machine
	dns       map[string]*resolver // by zone
	builds    []buildRun
	refused   map[[3]string]float64 // policy, namespace, image: when
	certs     []*certificate
	backup    float64 // when the last was made
	process   float64 // when gantry serve was started
	events    map[int][]func()
	burst     func(now int) float64 // what traffic is multiplied with, or nil
	made      int                   // pods so far
}

// workload is a Deployment, StatefulSet or Job with its pods.
type workload struct {
	kind, namespace, name string
	owner                 string // CronJob of a Job
	replicas, generation  int
	usual                 int     // replicas that carry the usual load
	surge                 bool    // a new pod comes before an old one goes
	startup               int     // seconds until a pod is ready
	grace                 int     // seconds that a pod takes to end
	cores, memory         float64 // limits; cores 0 is none
	base                  float64 // memory of a pod in quiet, share of the limit
	use                   float64 // cores of a pod in quiet
	forbidden             bool    // pods of it cannot be created
	stuck                 bool    // its roll-out exceeded its deadline
	pods                  []*pod
	created               int
	failed, done          bool         // of a Job
	scraped               bool         // pods have metrics of their own
	behave                func(p *pod) // called each second for pods that run; or nil
	fresh                 func(p *pod) // called for new pods; or nil
}

// pod is one of a workload's, with one container.
type pod struct {
	w                                *workload
	name, uid                        string
	number, generation               int
	created, started, deleted, waits int // seconds; deleted 0 is not, waits is until when it rests
	running, ready, unschedulable    bool
	waiting, ended, lastEnded        string // reasons
	restarts, runs                   int
	probeFails                       bool
	rss, leak, throttle              float64 // throttle is the share of periods
	cpu, periods, throttled, held    float64
	oom                              int
	silent                           targetState
	failedProbes, goodProbes         int
}

type route struct {
	name                 string
	availability, within string  // declared objectives, or ""
	rate                 float64 // requests a second
	latency              float64 // median seconds
	errors, slow         float64 // share of requests that fail, factor of time
	buckets              []float64
	count, sum           float64
	codes                map[string]float64
	target               *workload
}

var bounds = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10}

type claim struct {
	namespace, name   string
	size, used, grows float64 // bytes, and bytes a second
}

type machine struct {
	disk, avail, writes float64 // bytes; written a second
	memory, free        float64
	pressure            string  // condition that is true
	offset              float64 // of the clock, seconds
	synchronised        bool
	readOnly            bool
	step, stepped       float64
	cpu                 float64
	notReady            bool
}

type resolver struct{ rate, failing, answered, failed float64 }

type buildRun struct {
	namespace, pipeline string
	number              int
	phase, reason       string
}

type certificate struct {
	namespace, secret, file string
	from, until             float64
}

const (
	nodeName = "vm"
	gigabyte = float64(1 << 30)
	megabyte = float64(1 << 20)
)

func newWorld(seed uint64) *world {
	w := &world{random: rand.New(rand.NewPCG(seed, 2)), events: map[int][]func(){}, refused: map[[3]string]float64{},
		dns: map[string]*resolver{"cluster.local.": {rate: 20}, ".": {rate: 3}}, process: w0(-86400 * 3), backup: w0(-600)}
	w.machine = machine{disk: 200 * gigabyte, avail: 90 * gigabyte, memory: 24 * gigabyte, free: 14 * gigabyte, synchronised: true}
	return w
}

// w0 is a second of simulated time as the clock tells it.
func w0(second int) float64 { return float64(began.Unix() + int64(second)) }

// on lets something happen at a second.
func (w *world) on(second int, what func()) { w.events[second] = append(w.events[second], what) }

func (w *world) add(k *workload) *workload {
	k.created = w.now - 86400
	k.generation, k.usual = 1, k.replicas
	w.workloads = append(w.workloads, k)
	for range k.replicas {
		p := w.newPod(k)
		p.created, p.started, p.running, p.ready = w.now-7200, w.now-7199, true, true
		p.rss = k.base * k.memory
	}
	return k
}

func (k *workload) ready() (n int) {
	for _, p := range k.pods {
		if p.ready {
			n++
		}
	}
	return n
}

func (w *world) newPod(k *workload) *pod {
	w.made++
	number := 0
	for slices.ContainsFunc(k.pods, func(p *pod) bool { return p.number == number && p.deleted == 0 }) {
		number++
	}
	p := &pod{w: k, number: number, generation: k.generation, created: w.now, uid: fmt.Sprintf("uid-%d", w.made)}
	switch k.kind {
	case "StatefulSet":
		p.name = fmt.Sprintf("%s-%d", k.name, number)
	default:
		p.name = fmt.Sprintf("%s-%x-%05x", k.name, 0x6d4b0+k.generation, 0xb0000+w.made*7919%0xfffff)
	}
	p.waiting, p.waits = "ContainerCreating", w.now+1
	k.pods = append(k.pods, p)
	if k.fresh != nil {
		k.fresh(p)
	}
	return p
}

// step is what happens in one second.
func (w *world) step() {
	w.now++
	for _, what := range w.events[w.now] {
		what()
	}
	delete(w.events, w.now)
	for _, k := range w.workloads {
		w.reconcile(k)
		for _, p := range k.pods {
			w.live(p)
		}
	}
	for _, r := range w.routes {
		w.traffic(r)
	}
	for _, c := range w.claims {
		c.used += c.grows * w.jitter(0.3)
	}
	m := &w.machine
	m.avail = max(0, m.avail-m.writes*w.jitter(0.2)-w.random.NormFloat64()*megabyte)
	m.cpu += 0.6
	for _, d := range w.dns {
		n := d.rate * w.jitter(0.2)
		bad := n * d.failing
		d.failed, d.answered = d.failed+bad, d.answered+n-bad
	}
	if w.now%3600 == 0 {
		w.backup = w0(w.now)
	}
}

func (w *world) jitter(share float64) float64 { return 1 + share*(2*w.random.Float64()-1) }

// reconcile is what a controller does about a workload's pods.
func (w *world) reconcile(k *workload) {
	k.pods = slices.DeleteFunc(k.pods, func(p *pod) bool { return p.deleted > 0 && w.now >= p.deleted+k.grace })
	if k.kind == "Job" {
		return
	}
	var active, old, ready []*pod
	ending := 0
	for _, p := range k.pods {
		if p.deleted > 0 {
			ending++
			continue
		}
		active = append(active, p)
		if p.generation != k.generation {
			old = append(old, p)
		}
		if p.ready {
			ready = append(ready, p)
		}
	}
	switch {
	case len(active) < k.replicas:
		if k.forbidden || k.kind == "StatefulSet" && (ending > 0 || len(ready) < len(active)) {
			return
		}
		for range k.replicas - len(active) {
			w.newPod(k)
		}
	case len(old) > 0 && k.surge && len(active) == k.replicas:
		w.newPod(k)
	case len(old) > 0 && (!k.surge || len(ready) > k.replicas):
		if len(ready) == len(active) || k.surge {
			old[0].deleted = w.now
		}
	case len(active) > k.replicas && (len(old) == 0):
		active[len(active)-1].deleted = w.now
	}
}

// live is one second of a pod.
func (w *world) live(p *pod) {
	k := p.w
	if p.deleted > 0 {
		p.ready = false
		return
	}
	if p.unschedulable || p.ended != "" && k.kind == "Job" {
		return
	}
	if !p.running {
		if w.now < p.waits || p.waiting != "" && p.waiting != "ContainerCreating" && p.waiting != "CrashLoopBackOff" {
			return
		}
		p.running, p.started, p.waiting, p.ended = true, w.now, "", ""
		p.runs++
		p.rss, p.cpu, p.periods, p.throttled, p.held, p.oom = k.base*k.memory*0.6, 0, 0, 0, 0, 0
	}
	load := 1.0
	for _, r := range w.routes {
		if r.target == k {
			load = w.load(r) * float64(k.usual) / float64(max(1, k.ready()))
		}
	}
	p.ready = w.now >= p.started+k.startup && !p.probeFails
	if (w.now-p.started)%5 == 0 && p.w.kind != "Job" {
		if p.ready {
			p.goodProbes++
		} else {
			p.failedProbes++
		}
	}
	want := k.base * k.memory * (0.95 + 0.05*load)
	p.rss += (want - p.rss) * 0.05
	p.rss = max(0, p.rss*w.jitter(0.004)+p.leak)
	p.use(w, load)
	if k.behave != nil {
		k.behave(p)
	}
}

func (p *pod) use(w *world, load float64) {
	used := p.w.use * load * w.jitter(0.3)
	if limit := p.w.cores; limit > 0 {
		share := max(p.throttle, min(1, (used-limit*0.8)/limit))
		p.periods += 10
		if share > 0 {
			p.throttled += 10 * share
			p.held += share * 0.7
		}
		used = min(used, limit)
	}
	p.cpu += used
}

// end lets the pod's container end, as the kubelet goes on from there: at once, then after growing pauses.
func (w *world) end(p *pod, reason string) {
	p.running, p.ready, p.ended, p.lastEnded = false, false, reason, reason
	if p.w.kind == "Job" && (reason == "Completed" || p.runs > 2) {
		return
	}
	pause := 0
	if p.restarts > 0 && w.now-p.started < 600 {
		pause = min(300, 10<<min(p.restarts-1, 5))
		p.waiting = "CrashLoopBackOff"
	}
	p.waits = w.now + pause
	p.restarts++
}

func (w *world) load(r *route) float64 {
	f := 1 + 0.2*math.Sin(float64(w.now)/600)
	if w.burst != nil {
		f *= w.burst(w.now)
	}
	return f
}

// traffic is one second of requests to a route.
func (w *world) traffic(r *route) {
	if r.codes == nil {
		r.codes, r.buckets = map[string]float64{}, make([]float64, len(bounds)+1)
	}
	ready := r.target.ready()
	n := r.rate * w.load(r)
	whole := int(n)
	if w.random.Float64() < n-float64(whole) {
		whole++
	}
	for range whole {
		code := "200"
		switch x := w.random.Float64(); {
		case ready == 0:
			code = "503"
		case x < r.errors:
			code = "500"
		case x < r.errors+0.0002:
			code = "502"
		case x > 0.97:
			code = "404"
		}
		slow := max(1, r.slow)
		took := r.latency * slow * math.Exp(0.6*w.random.NormFloat64())
		r.codes[code]++
		r.count++
		r.sum += took
		r.buckets[sortedIndex(took)]++
	}
}

func sortedIndex(took float64) int {
	i, _ := slices.BinarySearch(bounds, took)
	return i
}

// start puts a new Job's pod into the world.
func (w *world) job(namespace, name, owner string, seconds int, result string) *workload {
	k := &workload{kind: "Job", namespace: namespace, name: name, owner: owner, memory: 64 * megabyte, base: 0.3, use: 0.2, created: w.now, generation: 1, grace: 1}
	w.workloads = append(w.workloads, k)
	p := w.newPod(k)
	k.behave = func(*pod) {
		if w.now-p.started >= seconds {
			w.end(p, result)
			switch {
			case result == "Completed":
				k.done = true
			case p.runs > 2:
				k.failed = true
			}
		}
	}
	return k
}
