package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/gantryhq/gantry/internal/process"
	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
	"github.com/gantryhq/gantry/test/leak"
)

const (
	// shortSiege is how many kills `make test` can wait for; `make crash` sets
	// GANTRY_KILLS.
	shortSiege = 6
	// quietEvery is after how many kills all load stops and everything is counted.
	quietEvery = 10
)

// TestSiege kills the processes of an instance with SIGKILL, at random moments,
// while everything moves. GANTRY_KILLS says how often, GANTRY_SEED repeats the
// choices of an earlier run.
func TestSiege(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	kills, seed := fromEnv(t, "GANTRY_KILLS", shortSiege), fromEnv(t, "GANTRY_SEED", int(time.Now().UnixNano()&0xffffff))
	t.Logf("GANTRY_SEED=%d", seed)
	s := newSiege(t, rand.New(rand.NewPCG(uint64(seed), 1)))
	defer s.report()
	for n := 1; n <= kills; n++ {
		s.strike()
		if t.Failed() {
			t.Fatalf("after kill %d; repeat with GANTRY_SEED=%d GANTRY_KILLS=%d", n, seed, n)
		}
		if n%quietEvery == 0 || n == kills {
			s.quiet()
		}
	}
}

func fromEnv(t *testing.T, name string, fallback int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// siege is one instance under load and fire.
type siege struct {
	t      *testing.T
	in     *instance.Instance
	client kubernetes.Interface
	config *rest.Config
	random *rand.Rand

	// gate is held for reading by whatever changes something, for writing by who
	// wants nothing to change.
	gate    sync.RWMutex
	ledger  ledger
	steady  *steady
	codes   exitCodes
	traffic [2]*traffic // through the service address, and through the gateway
	strikes []strike
	began   time.Time
}

// strike is one kill and what it cost.
type strike struct {
	victim string
	back   time.Duration // until it did its work again
	lost   int           // log lines
	failed [2]int        // requests
}

func newSiege(t *testing.T, random *rand.Rand) *siege {
	klog.SetLogger(logr.Discard()) // sessions that are cut off are what this is about
	in := instance.Start(t, instance.Options{})
	in.BaseImages(t)
	s := &siege{t: t, in: in, random: random, client: in.Client(t), config: in.Config(t), began: time.Now()}
	s.config.Timeout = 10 * time.Second
	s.client = kubernetes.NewForConfigOrDie(s.config)
	s.steady = newSteady(s)
	s.traffic[0] = newTraffic("http://"+s.steady.address(), "")
	s.traffic[1] = newTraffic("http://"+in.Gateway, steadyHost)
	stop, done := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for writer := range 3 {
		all.Go(func() { s.write(stop, writer, s.child()) })
	}
	random1, random2 := s.child(), s.child()
	all.Go(func() { s.churn(stop, random1) })
	all.Go(func() { s.exits(stop, random2) })
	all.Go(func() { s.execute(stop) })
	for _, tr := range s.traffic {
		all.Go(func() { tr.run(stop) })
	}
	t.Cleanup(func() { done(); all.Wait() })
	return s
}

// child is a generator of its own for a goroutine.
func (s *siege) child() *rand.Rand {
	return rand.New(rand.NewPCG(s.random.Uint64(), s.random.Uint64()))
}

// strike kills something and checks everything that must have survived.
func (s *siege) strike() {
	s.t.Helper()
	<-time.After(time.Duration(s.random.IntN(1200)) * time.Millisecond) // the random moment
	victims := []struct {
		name string
		kill func()
	}{
		{"serve", s.killServe}, {"serve", s.killServe}, {"serve", s.killServe},
		{"serve while it starts", s.killStarting},
		{"shim", s.killShim}, {"shim", s.killShim},
		{"gateway", s.killGateway},
		{"serve and shim", s.killServeAndShim},
		{"serve and gateway", s.killServeAndGateway},
		{"all three", s.killAll},
	}
	v := victims[s.random.IntN(len(victims))]
	before, struck := s.steady.told(), time.Now()
	v.kill()
	result := strike{victim: v.name, back: time.Since(struck)}
	shim, gateway := strings.Contains(v.name, "shim") || v.name == "all three", strings.Contains(v.name, "gateway") || v.name == "all three"
	if shim {
		s.steady.awaitNews(before)
	}
	s.ledger.check(s)
	result.lost = s.steady.check(shim)
	s.codes.check(s)
	for i, tr := range s.traffic {
		if result.failed[i] = tr.takeFailures(); result.failed[i] > 0 && !(gateway && i == 1) {
			s.t.Errorf("killing %s failed %d requests to %s: %s", v.name, result.failed[i], tr.url, tr.lastError())
		}
	}
	s.strikes = append(s.strikes, result)
}

func (s *siege) killServe() {
	s.in.Stop(s.t, syscall.SIGKILL)
	s.in.Serve(s.t)
}

func (s *siege) killStarting() {
	s.in.Stop(s.t, syscall.SIGKILL)
	s.in.Begin(s.t)
	<-time.After(time.Duration(s.random.IntN(900)) * time.Millisecond)
	s.in.Stop(s.t, syscall.SIGKILL)
	s.in.Serve(s.t)
}

func (s *siege) killShim() {
	old := s.shim()
	s.end(old)
	s.awaitAnother("shim", old, s.shim)
}

func (s *siege) killGateway() {
	old := s.gateway()
	s.end(old)
	s.awaitAnother("gateway", old, s.gateway)
	s.awaitGateway()
}

func (s *siege) killServeAndShim() {
	old := s.shim()
	s.in.Stop(s.t, syscall.SIGKILL)
	s.end(old)
	s.in.Serve(s.t)
	s.awaitAnother("shim", old, s.shim)
}

func (s *siege) killServeAndGateway() {
	old := s.gateway()
	s.end(old)
	s.in.Stop(s.t, syscall.SIGKILL)
	s.in.Serve(s.t)
	s.awaitGateway()
}

func (s *siege) killAll() {
	s.end(s.gateway())
	s.end(s.shim())
	s.in.Stop(s.t, syscall.SIGKILL)
	s.in.Serve(s.t)
	s.awaitGateway()
}

func (s *siege) awaitGateway() {
	waitFor(s.t, 20*time.Second, "the gateway to answer again", func() bool { return s.traffic[1].try() == nil })
}

// shim is the process that holds the shim's lock.
func (s *siege) shim() process.Handle {
	text, err := os.ReadFile(filepath.Join(s.in.DataDir, "run", "shim.lock"))
	if err != nil {
		s.t.Fatal(err)
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	h, _ := process.Find(pid)
	return h
}

func (s *siege) gateway() process.Handle {
	data, err := os.ReadFile(filepath.Join(s.in.DataDir, "run", "gateway.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var record struct{ Process process.Handle }
	_ = json.Unmarshal(data, &record) // one that is half written is asked for again
	return record.Process
}

func (s *siege) end(h process.Handle) {
	s.t.Helper()
	if !h.Alive() {
		s.t.Fatalf("process %+v is not there to be killed", h)
	}
	if err := h.Signal(syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	if err := h.Wait(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *siege) awaitAnother(what string, old process.Handle, find func() process.Handle) {
	s.t.Helper()
	waitFor(s.t, 20*time.Second, "another "+what, func() bool { h := find(); return h.Alive() && h != old })
}

// quiet stops all load, waits until what is wanted is there, and counts.
func (s *siege) quiet() {
	s.t.Helper()
	s.gate.Lock()
	defer s.gate.Unlock()
	s.settleChurn()
	s.codes.drain(s)
	s.killServe() // which cuts off all sessions
	s.steady.noStrays()
	leak.Check(s.t, s.in)
}

// report prints what every kind of kill cost.
func (s *siege) report() {
	byVictim := map[string][]strike{}
	var order []string
	for _, k := range s.strikes {
		if byVictim[k.victim] == nil {
			order = append(order, k.victim)
		}
		byVictim[k.victim] = append(byVictim[k.victim], k)
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%-22s %5s %12s %12s %10s %12s %12s\n", "killed", "times", "back median", "back longest", "lines lost", "failed: IP", "gateway")
	for _, victim := range order {
		list := byVictim[victim]
		var lost, failed, through int
		for _, k := range list {
			lost, failed, through = lost+k.lost, failed+k.failed[0], through+k.failed[1]
		}
		median, longest := backs(list)
		fmt.Fprintf(&table, "%-22s %5d %12s %12s %10d %12d %12d\n", victim, len(list), median, longest, lost, failed, through)
	}
	s.t.Logf("%d kills in %s\n%s%s; %s; %d and %d requests answered", len(s.strikes), time.Since(s.began).Round(time.Second), table.String(),
		s.ledger.summary(), s.codes.summary(), s.traffic[0].answered.Load(), s.traffic[1].answered.Load())
}
