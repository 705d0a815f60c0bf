package bench

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

const (
	// some is how many replicas a service of ordinary size grows to.
	some = 50
	// singles is how often one replica is added in each round.
	singles = 5
	// patience bounds the wait for one step.
	patience = 5 * time.Minute
	// rest follows each step: what a step leaves to do, to the system and to the
	// kernel, counts as its CPU time and does not disturb the next one.
	rest = time.Second
	// settling is how long memory is left alone before it is measured: the collector
	// and the kernel take back what starting up needed in their own time.
	settling = 20 * time.Second
)

// system is an orchestrator with one service of the small web server.
type system interface {
	// scale changes the number of replicas and waits until that many serve.
	scale(replicas int)
	// part says what a process does for the system, by the process table.
	part(table map[int]process, pid int) part
}

// Names of the steps, which are also the keys of the report.
const (
	stepFirst = "first"
	stepSome  = "1 to 50"
	stepOne   = "one more"
	stepNone  = "50 to none"
	stepMany  = "1 to many"
	stepEmpty = "many to none"
)

// BenchmarkScaleOut grows a service from 1 to 50 replicas, adds single ones, takes
// all away and grows it to 200, on each system in turn.
func BenchmarkScaleOut(b *testing.B) {
	testenv.NeedContainers(b)
	rounds, many := number(b, "BENCH_ROUNDS", 3), number(b, "BENCH_MANY", 200)
	for b.Loop() {
		r := &report{Many: many}
		for _, name := range strings.Fields(cmp.Or(os.Getenv("BENCH_SYSTEMS"), "swarm runc gantry")) {
			b.Run(name, func(b *testing.B) { // a scope of its own, so that each ends before the next starts
				if name == peer {
					r.Systems = append(r.Systems, benchSwarm(b, rounds, many))
				} else {
					r.Systems = append(r.Systems, benchGantry(b, name, rounds, many))
				}
			})
		}
		r.print(b)
	}
}

func number(t testing.TB, variable string, usual int) int {
	t.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv(variable), strconv.Itoa(usual)))
	if err != nil || n < 0 {
		t.Fatalf("%s is %q: it must be a number", variable, os.Getenv(variable))
	}
	return n
}

func benchSwarm(b *testing.B, rounds, many int) *results {
	if missing := swarmMissing(); len(missing) > 0 {
		b.Skipf("Docker Swarm is not measured, there is no %s here: apt-get install docker.io", strings.Join(missing, ", "))
	}
	var root []byte
	b.Run("image", func(b *testing.B) { // from an instance that ends before Swarm starts
		in := instance.Start(b, instance.Options{})
		in.BaseImages(b)
		root = layer(b, in)
	})
	if root == nil {
		b.Fatal("there is no image to run")
	}
	s := startSwarm(b, root)
	r := &results{Name: peer}
	r.rounds(b, s, rounds)
	if many > 0 {
		r.grow(b, s, 1, many)
	}
	return r
}

func benchGantry(b *testing.B, driver string, rounds, many int) *results {
	r := &results{Name: driver}
	if driver == "default" {
		driver = ""
	}
	b.Setenv("GANTRY_RUNTIME", driver)
	in := instance.Start(b, instance.Options{})
	in.BaseImages(b)
	d := newDeployment(b, in)
	remember := func(replicas int) {
		time.Sleep(settling)
		r.Memory = append(r.Memory, d.memory(replicas))
	}
	r.step(b, d, stepFirst, 0, 1)
	remember(1)
	r.step(b, d, stepSome, 1, some)
	remember(some)
	r.step(b, d, stepNone, some, 0)
	d.scale(1)
	r.rounds(b, d, rounds)
	if many > 0 {
		d.scale(many)
		remember(many)
		d.scale(0)
		d.scale(1)
		r.grow(b, d, rounds, many)
	}
	return r
}

// rounds measures the ordinary steps, beginning with one replica or none and ending with one.
func (r *results) rounds(b *testing.B, s system, rounds int) {
	for range rounds {
		s.scale(1)
		r.step(b, s, stepSome, 1, some)
		for n := range singles {
			r.step(b, s, stepOne, some+n, some+n+1)
		}
		s.scale(some)
		time.Sleep(rest)
		r.step(b, s, stepNone, some, 0)
	}
	s.scale(1)
}

// grow measures the big step, beginning with one replica.
func (r *results) grow(b *testing.B, s system, rounds, many int) {
	for range rounds {
		r.step(b, s, stepMany, 1, many)
		r.step(b, s, stepEmpty, many, 0)
		s.scale(1)
		time.Sleep(rest)
	}
}

// step measures one change of the number of replicas.
func (r *results) step(b *testing.B, s system, name string, from, to int) {
	before, began := measure(b, s), time.Now()
	s.scale(to)
	took := time.Since(began)
	time.Sleep(rest)
	used := measure(b, s).since(before)
	i := slices.IndexFunc(r.Steps, func(one *step) bool { return one.Name == name })
	if i < 0 {
		i, r.Steps = len(r.Steps), append(r.Steps, &step{Name: name})
	}
	one := r.Steps[i]
	one.Times = append(one.Times, milliseconds(took))
	one.Pods += max(to-from, from-to)
	one.used.add(used)
	fmt.Printf("%s, %s: %.0f ms\n", r.Name, name, milliseconds(took))
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
