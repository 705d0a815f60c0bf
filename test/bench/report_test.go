package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
)

// peer is the name of the system that the others are compared with.
const peer = "swarm"

// step is one change of the number of replicas, measured several times.
type step struct {
	Name   string    `json:"step"`
	Median float64   `json:"milliseconds"`
	Times  []float64 `json:"allMilliseconds"`
	Pods   int       `json:"pods"` // started or ended, in all rounds together
	CPU    cpu       `json:"cpuMillisecondsPerPod"`
	used   usage
}

// cpu is a mean over all pods of all rounds.
type cpu struct {
	Control    float64 `json:"control"`
	Containers float64 `json:"containers"`
	Kernel     float64 `json:"kernel"`
	Whole      float64 `json:"whole"`   // the sum of those
	Machine    float64 `json:"machine"` // a cross-check: everything that ran, this program and others included
}

// results are those of one system.
type results struct {
	Name   string   `json:"system"`
	Steps  []*step  `json:"steps"`
	Memory []memory `json:"memory,omitempty"`
}

func (r *results) find(name string) *step {
	for _, one := range r.Steps {
		if one.Name == name {
			return one
		}
	}
	return nil
}

// report is what a run says.
type report struct {
	Many    int        `json:"many"`
	Systems []*results `json:"systems"`
	Targets []target   `json:"targets"`
}

// target is something promised of one system, and what was measured.
type target struct {
	System   string  `json:"system"`
	What     string  `json:"what"`
	Measured float64 `json:"measured"`
	Most     float64 `json:"most"`
}

func (t target) String() string {
	verdict := "holds"
	if t.Measured > t.Most {
		verdict = "MISSED"
	}
	return fmt.Sprintf("%s: %s: %.4g, at most %.4g: %s", t.System, t.What, t.Measured, t.Most, verdict)
}

func (r *report) finish() {
	for _, s := range r.Systems {
		for _, one := range s.Steps {
			sorted := slices.Sorted(slices.Values(one.Times))
			one.Median = (sorted[len(sorted)/2] + sorted[(len(sorted)-1)/2]) / 2
			pods := float64(one.Pods)
			one.CPU = cpu{Control: milliseconds(one.used.control) / pods, Containers: milliseconds(one.used.containers) / pods,
				Kernel: milliseconds(one.used.kernel) / pods, Machine: milliseconds(one.used.machine) / pods}
			one.CPU.Whole = one.CPU.Control + one.CPU.Containers + one.CPU.Kernel
		}
	}
	for _, s := range r.Systems {
		if s.Name != peer {
			r.judge(s)
		}
	}
}

// judge compares one system with what is promised: the ratios of both drivers, and
// what is promised of the fast one alone.
func (r *report) judge(s *results) {
	add := func(what string, measured, most float64) {
		r.Targets = append(r.Targets, target{System: s.Name, What: what, Measured: measured, Most: most})
	}
	for _, ratio := range []struct {
		step       string
		fast, slow float64
	}{{stepSome, 1.0 / 25, 1.0 / 5}, {stepNone, 1.0 / 25, 1.0 / 5}} {
		most := ratio.fast
		if s.Name == "runc" {
			most = ratio.slow
		}
		if theirs := r.of(peer, ratio.step); theirs > 0 {
			add(ratio.step+", share of Docker Swarm's time", r.of(s.Name, ratio.step)/theirs, most)
		}
	}
	if s.Name == "runc" {
		return
	}
	add(stepSome+", ms", r.of(s.Name, stepSome), 600)
	add(stepOne+", ms", r.of(s.Name, stepOne), 40)
	add(stepSome+", CPU ms per pod", s.find(stepSome).CPU.Whole, 8)
	if s.find(stepMany) != nil {
		add(fmt.Sprintf("1 to %d, ms", r.Many), r.of(s.Name, stepMany), 2000)
		first, last := s.Memory[0], s.Memory[len(s.Memory)-1]
		add(fmt.Sprintf("shim with %d containers, MB", last.Replicas), last.ShimMB, 15)
		add("growth of serve per running pod, MB", (last.ServeMB-first.ServeMB)/float64(last.Replicas-first.Replicas), 0.3)
	}
}

// of is a system's median time for a step, 0 where it was not measured.
func (r *report) of(system, name string) float64 {
	for _, s := range r.Systems {
		if one := s.find(name); s.Name == system && one != nil {
			return one.Median
		}
	}
	return 0
}

// print writes the table for people, the JSON for programs, and the metrics for benchstat.
func (r *report) print(b *testing.B) {
	r.finish()
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\t\tmedian\tof\tof Swarm's\tCPU ms/pod:\t\t\t\t\t")
	fmt.Fprintln(w, "step\tsystem\tms\truns\ttime\tcontrol\tcontainers\tkernel\twhole\t(machine)\t")
	for _, name := range []string{stepFirst, stepSome, stepOne, stepNone, stepMany, stepEmpty} {
		for _, s := range r.Systems {
			one := s.find(name)
			if one == nil {
				continue
			}
			ratio := ""
			if theirs := r.of(peer, name); theirs > 0 && s.Name != peer {
				ratio = fmt.Sprintf("1/%.1f", theirs/one.Median)
			}
			fmt.Fprintf(w, "%s\t%s\t%.0f\t%d\t%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t\n", strings.Replace(name, "many", fmt.Sprint(r.Many), 1), s.Name,
				one.Median, len(one.Times), ratio, one.CPU.Control, one.CPU.Containers, one.CPU.Kernel, one.CPU.Whole, one.CPU.Machine)
		}
	}
	w.Flush()
	for _, s := range r.Systems {
		for _, m := range s.Memory {
			fmt.Fprintf(&text, "memory, %s, %d replicas: all processes %.0f MB, serve %.1f MB (%.1f MB without files), shim %.1f MB\n", s.Name, m.Replicas, m.AllMB, m.ServeMB, m.ServeAnonMB, m.ShimMB)
		}
	}
	for _, t := range r.Targets {
		fmt.Fprintln(&text, t)
	}
	line, err := json.Marshal(r)
	must(b, err)
	if path := os.Getenv("BENCH_JSON"); path != "" {
		must(b, os.WriteFile(path, append(line, '\n'), 0o644))
	}
	fmt.Printf("\n%s%s\n", text.String(), line)
	for _, s := range r.Systems {
		b.ReportMetric(r.of(s.Name, stepSome), s.Name+"-ms/scale-out")
		b.ReportMetric(r.of(s.Name, stepOne), s.Name+"-ms/one-more")
	}
}
