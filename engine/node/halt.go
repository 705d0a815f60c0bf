package node

import (
	"context"
	"fmt"
	"time"
)

// Halt stops the containers of all pods, as the machine goes down: hook, stop signal, and
// the kill after the pod's grace period, but no later than limit. From then on this Node
// starts nothing; the next one on this machine brings back what is declared. Halt returns
// when no container runs; an error says of how many pods some do when ctx ends first.
func (n *Node) Halt(ctx context.Context, limit time.Duration) error {
	n.halting.Store(true)
	for {
		running := 0
		for _, w := range n.allWorkers() {
			if w.halt(limit) {
				running++
			}
		}
		if running == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop containers: those of %d pods still run: %w", running, ctx.Err())
		case <-time.After(20 * time.Millisecond): // also for what was being started
		}
	}
}

// halt begins to stop the containers that run, sidecars last, and reports whether any
// runs or is being started.
func (w *worker) halt(limit time.Duration) (running bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := planner{pod: w.pod, v: &w.v}
	running = p.stopContainers(min(specGrace(w.pod), limit))
	for _, s := range p.plan.Steps {
		s.Reason = "The machine is shutting down, stopping container " + s.Container
		w.begin(s)
	}
	for name := range w.v.Containers {
		running = running || w.v.Busy[step{Kind: stepStart, Container: name}.key()]
	}
	return running
}
