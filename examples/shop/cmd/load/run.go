package main

import (
	"context"
	"fmt"
	"io"
	"sort"
	"sync"
	"time"
)

// buyEvery is how often a visit ends with an order; the others only look.
const buyEvery = 20

// report is what a run found.
type report struct {
	Requests  int            `json:"requests"`
	Failed    int            `json:"failed"`
	Late      int            `json:"late"` // turns skipped because all customers were busy
	Orders    int            `json:"orders"`
	Seconds   float64        `json:"seconds"`
	P50ms     float64        `json:"p50_ms"`
	P95ms     float64        `json:"p95_ms"`
	P99ms     float64        `json:"p99_ms"`
	MaxMs     float64        `json:"max_ms"`
	ByVersion map[string]int `json:"by_version"`
	Reasons   map[string]int `json:"reasons,omitempty"`
}

// collector gathers results of all customers.
type collector struct {
	mu     sync.Mutex
	times  []time.Duration
	report report
}

func (c *collector) add(r result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Requests++
	c.times = append(c.times, r.took)
	if r.err != nil {
		c.report.Failed++
		c.report.Reasons[r.err.Error()]++
		return
	}
	c.report.ByVersion[r.version]++
}

func (c *collector) ordered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Orders++
}

// run starts visits at the given rate, whatever the answers take, until the
// duration is over or ctx ends; then it lets the last ones finish.
func run(ctx context.Context, to, host string, rate int, duration time.Duration, workers int) report {
	c := &collector{report: report{ByVersion: map[string]int{}, Reasons: map[string]int{}}}
	visits := make(chan int)
	var group sync.WaitGroup
	for range workers {
		group.Add(1)
		go func() {
			defer group.Done()
			v := newVisitor(to, host)
			v.done = c.add
			for n := range visits {
				if n%buyEvery != 0 {
					v.browse(context.WithoutCancel(ctx))
				} else if _, err := v.buy(context.WithoutCancel(ctx), "probe-torch"); err == nil {
					c.ordered()
				}
			}
		}()
	}
	start := time.Now()
	c.report.Late = pace(ctx, visits, rate, duration)
	close(visits)
	group.Wait()
	c.report.Seconds = time.Since(start).Seconds()
	c.percentiles()
	return c.report
}

// pace hands out one visit per turn and returns how many turns found nobody free.
func pace(ctx context.Context, visits chan<- int, rate int, duration time.Duration) (late int) {
	end := time.After(duration)
	turns := time.NewTicker(time.Second / time.Duration(rate))
	defer turns.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return late
		case <-end:
			return late
		case <-turns.C:
		}
		select {
		case visits <- n:
		default:
			late++
		}
	}
}

func (c *collector) percentiles() {
	if len(c.times) == 0 {
		return
	}
	sort.Slice(c.times, func(i, j int) bool { return c.times[i] < c.times[j] })
	at := func(share float64) float64 {
		return float64(c.times[int(share*float64(len(c.times)-1))].Microseconds()) / 1000
	}
	c.report.P50ms, c.report.P95ms, c.report.P99ms, c.report.MaxMs = at(0.50), at(0.95), at(0.99), at(1)
}

func (r report) print(out io.Writer) {
	fmt.Fprintf(out, "requests  %d in %.1f s (%.0f/s), %d orders placed, %d turns skipped\n", r.Requests, r.Seconds, float64(r.Requests)/r.Seconds, r.Orders, r.Late)
	fmt.Fprintf(out, "failed    %d\n", r.Failed)
	for reason, n := range r.Reasons {
		fmt.Fprintf(out, "          %d × %s\n", n, reason)
	}
	fmt.Fprintf(out, "latency   p50 %.1f ms, p95 %.1f ms, p99 %.1f ms, max %.1f ms\n", r.P50ms, r.P95ms, r.P99ms, r.MaxMs)
	for version, n := range r.ByVersion {
		fmt.Fprintf(out, "version   %s answered %d\n", version, n)
	}
}
