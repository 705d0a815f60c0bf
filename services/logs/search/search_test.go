package search

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/gantryhq/gantry/services/logs/archive"
	"github.com/gantryhq/gantry/services/logs/logql"
)

// memory has logs in memory, in pieces.
type memory []Unit

func (m memory) Units(from, to int64, fits func(labels.Labels) bool) (list []Unit, _ error) {
	for _, u := range m {
		if u.Max >= from && u.Min <= to && fits(u.Labels) {
			list = append(list, u)
		}
	}
	return list, nil
}

// piece makes a unit of lines "TIME TEXT".
func piece(l labels.Labels, order int64, entries ...archive.Entry) Unit {
	u := Unit{Labels: l, Order: order, Min: math.MaxInt64, Lines: len(entries)}
	for _, e := range entries {
		u.Min, u.Max = min(u.Min, e.Time), max(u.Max, e.Time)
		if e.Stderr {
			u.Stderr++
		}
	}
	u.Scan = func(_ *archive.Scratch, _ []archive.Needle, _ []byte, each func(archive.Entry) bool) error {
		for _, e := range entries {
			if !each(e) {
				break
			}
		}
		return nil
	}
	return u
}

func everywhere(string) bool { return true }

func parse(t *testing.T, text string) *logql.Query {
	t.Helper()
	q, err := logql.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// However logs are cut into pieces, the newest and the oldest lines are found, in order.
func TestLinesComeInOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 30 {
		var m memory
		var all []string // the oldest first
		at := int64(1000)
		for p := range 40 {
			l := labels.FromStrings("namespace", "shop", "pod", fmt.Sprint(p%3))
			var entries []archive.Entry
			for range 1 + random.IntN(20) {
				at += random.Int64N(2) // several of the same time
				text := fmt.Sprintf("%d", len(all))
				entries = append(entries, archive.Entry{Time: at, Line: []byte(text)})
				all = append(all, text)
			}
			at++ // lines of other logs at the same time have no order
			m = append(m, piece(l, int64(p*1000), entries...))
		}
		random.Shuffle(len(m), func(i, j int) { m[i], m[j] = m[j], m[i] })
		limit := 1 + random.IntN(len(all)+10)
		for _, forward := range []bool{true, false} {
			found, err := Lines(t.Context(), m, parse(t, `{namespace="shop"}`).Log, Options{From: 0, To: 1 << 60, Limit: limit, Forward: forward, May: everywhere})
			if err != nil {
				t.Fatal(err)
			}
			if want := min(limit, len(all)); len(found) != want {
				t.Fatalf("%d lines are found, want %d", len(found), want)
			}
			for i, l := range found {
				want := all[i]
				if !forward {
					want = all[len(all)-1-i]
				}
				if l.Text != want {
					t.Fatalf("forward %t: line %d is %s, want %s", forward, i, l.Text, want)
				}
			}
		}
	}
}

func TestWhoMayNotSeeDoesNot(t *testing.T) {
	m := memory{
		piece(labels.FromStrings("namespace", "shop"), 0, archive.Entry{Time: 5, Line: []byte("a")}),
		piece(labels.FromStrings("namespace", "bank"), 0, archive.Entry{Time: 6, Line: []byte("b"), Stderr: true}),
	}
	o := Options{From: 0, To: 100, Limit: 10, May: func(n string) bool { return n == "shop" }}
	found, err := Lines(t.Context(), m, parse(t, `{namespace=~".+"}`).Log, o)
	if err != nil || len(found) != 1 || found[0].Text != "a" {
		t.Errorf("found %v, %v", found, err)
	}
	series, err := Numbers(t.Context(), m, parse(t, `sum(count_over_time({namespace=~".+"}[1m]))`).Metric, Steps{100, 1, 1}, o.May)
	if err != nil || len(series) != 1 || series[0].Values[0] != 1 {
		t.Errorf("counted %v, %v", series, err)
	}
	o.May = everywhere
	if found, err = Lines(t.Context(), m, parse(t, `{namespace=~".+",stream="stderr"}`).Log, o); err != nil || len(found) != 1 || found[0].Text != "b" {
		t.Errorf("of stderr found %v, %v", found, err)
	}
}

// Numbers are those that counting each line in each window gives.
func TestNumbersAreCounted(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for range 50 {
		var m memory
		var entries []archive.Entry
		for p := range 5 {
			var some []archive.Entry
			at := random.Int64N(500)
			for range random.IntN(30) {
				at += random.Int64N(20)
				some = append(some, archive.Entry{Time: at, Line: []byte("x"), Stderr: random.IntN(2) == 0})
			}
			if len(some) > 0 {
				m = append(m, piece(labels.FromStrings("namespace", "shop", "pod", fmt.Sprint(p)), 0, some...))
			}
			entries = append(entries, some...)
		}
		window := 1 + random.Int64N(100)
		steps := Steps{random.Int64N(100), 1 + random.Int64N(50), 1 + random.IntN(20)}
		q := parse(t, `sum by (stream) (count_over_time({namespace="shop"}[1m]))`)
		q.Metric.Range = time.Duration(window)
		got, err := Numbers(t.Context(), m, q.Metric, steps, everywhere)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]float64{}
		for i := range steps.Count {
			at := steps.Start + int64(i)*steps.Step
			for _, e := range entries {
				if e.Time > at-window && e.Time <= at {
					want[fmt.Sprint(i, e.Stderr)]++
				}
			}
		}
		total := 0
		for _, s := range got {
			for i, v := range s.Values {
				if math.IsNaN(v) {
					continue
				}
				total++
				if key := fmt.Sprint(i, s.Labels.Get("stream") == "stderr"); want[key] != v {
					t.Fatalf("step %d of %s is %v, want %v", i, s.Labels, v, want[key])
				}
			}
		}
		if total != len(want) {
			t.Fatalf("there are %d numbers, want %d", total, len(want))
		}
	}
}

func TestAnswersThatAreTooBigAreRefused(t *testing.T) {
	big := []byte(strings.Repeat("x", 1<<20))
	var entries []archive.Entry
	var m memory
	for i := range 50 {
		entries = append(entries, archive.Entry{Time: int64(i), Line: big})
	}
	for i := range maxSeries + 1 {
		m = append(m, piece(labels.FromStrings("namespace", "many", "pod", fmt.Sprint(i)), 0, archive.Entry{Time: 1, Line: []byte("x")}))
	}
	m = append(m, piece(labels.FromStrings("namespace", "big"), 0, entries...))
	_, err := Lines(t.Context(), m, parse(t, `{namespace="big"}`).Log, Options{To: 100, Limit: 50, May: everywhere})
	if err == nil || !strings.Contains(err.Error(), "more than 32 MiB") {
		t.Errorf("50 MiB of lines: %v", err)
	}
	_, err = Numbers(t.Context(), m, parse(t, `count_over_time({namespace="many"}[1m])`).Metric, Steps{10, 1, 1}, everywhere)
	if err == nil || !strings.Contains(err.Error(), "series") {
		t.Errorf("too many series: %v", err)
	}
	_, err = Numbers(t.Context(), m, parse(t, `count_over_time({namespace="many"}[1m])`).Metric, Steps{10, 1, maxSteps + 1}, everywhere)
	if err == nil || !strings.Contains(err.Error(), "steps") {
		t.Errorf("too many steps: %v", err)
	}
}
