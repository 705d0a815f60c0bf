package anomaly

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gantryhq/gantry/internal/atomicfile"
)

const (
	maxKept  = 500 // anomalies
	keptFor  = daysKept * 24 * time.Hour
	lookBack = 15 * time.Minute // for causes
	fades    = 5 * time.Minute  // after which something is a third as likely a cause
	causes   = 3                // are noted
)

// Anomaly is a time in which a signal was far from its baseline. Its JSON is the API's.
type Anomaly struct {
	Subject
	Signal string     `json:"signal"` // cpu, memory, restarts, log_lines; of routes requests, errors, latency
	Unit   string     `json:"unit"`
	Start  time.Time  `json:"start"`
	End    *time.Time `json:"end,omitempty"` // nil while it goes on
	// The value that was farthest off, in Unit, with what was expected then. Score is their distance in Deviations.
	Value     float64 `json:"value"`
	Expected  float64 `json:"expected"`
	Deviation float64 `json:"deviation"`
	Score     float64 `json:"score"`
	// Causes are what happened just before, the likeliest first.
	Causes []Cause `json:"causes,omitempty"`
}

// Cause is something that happened shortly before an anomaly began.
type Cause struct {
	// Kind is deploy, rollback, scale, restart or config, as on the time line, or anomaly: of a neighbour.
	Kind      string    `json:"kind"`
	Time      time.Time `json:"time"`
	Namespace string    `json:"namespace"`
	Object    string    `json:"object"`
	Message   string    `json:"message"`
	By        string    `json:"by,omitempty"`
	// Weight is between 0 and 1: how near it was, in time and place.
	Weight float64 `json:"weight"`
}

func (a *Anomaly) close(at time.Time) { a.End = &at }

// weights tell how often a change of this kind is a cause, by judgement, not by measurement.
var weights = map[string]float64{"deploy": 1, "rollback": 1, "config": 0.9, "scale": 0.6, "restart": 0.5, "anomaly": 0.4}

// weigh sets the weight of a cause by its distance in time, and by whose it is.
func (c *Cause) weigh(begin time.Time, own bool) {
	c.Weight = weights[c.Kind] * math.Exp(-math.Abs(begin.Sub(c.Time).Minutes())/fades.Minutes())
	if !own {
		c.Weight /= 2
	}
}

// explain notes what may have caused anomalies.
func (s *Service) explain(ctx context.Context, begun []*Anomaly, now time.Time) {
	byNamespace := map[string][]*Anomaly{}
	for _, a := range begun {
		byNamespace[a.Namespace] = append(byNamespace[a.Namespace], a)
	}
	for namespace, list := range byNamespace {
		asking, cancel := context.WithTimeout(ctx, step/4)
		first := slices.MinFunc(list, func(a, b *Anomaly) int { return a.Start.Compare(b.Start) })
		events, err := s.asks.changes(asking, namespace, first.Start.Add(-lookBack), now)
		cancel()
		if err != nil {
			s.log.Warn("causes of anomalies are not known", "err", err)
		}
		for _, a := range list {
			var found []Cause
			for _, e := range events {
				if e.Time.After(a.Start.Add(step)) || e.Time.Before(a.Start.Add(-lookBack)) {
					continue
				}
				c := Cause{Kind: e.Kind, Time: e.Time, Namespace: e.Namespace, Object: e.Object, Message: e.Message, By: e.By}
				c.weigh(a.Start, e.Workload == a.Name || e.Workload == "" && e.Kind == "config")
				found = append(found, c)
			}
			s.mu.Lock()
			found = append(found, s.neighbours(a)...)
			slices.SortStableFunc(found, func(x, y Cause) int { return cmp.Compare(y.Weight, x.Weight) })
			a.Causes = found[:min(len(found), causes)]
			s.mu.Unlock()
		}
	}
}

// neighbours are other subjects' anomalies that began a little earlier or at the same time. s.mu is held.
func (s *Service) neighbours(a *Anomaly) (found []Cause) {
	for _, other := range s.anomalies {
		if other.Subject == a.Subject || other.Start.After(a.Start) || a.Start.Sub(other.Start) > lookBack {
			continue
		}
		c := Cause{Kind: "anomaly", Time: other.Start, Namespace: other.Namespace, Object: other.Kind + "/" + other.Name,
			Message: fmt.Sprintf("%s is %.3g %s, %.3g was usual", other.Signal, other.Value, other.Unit, other.Expected)}
		c.weigh(a.Start, other.Namespace == a.Namespace)
		found = append(found, c)
	}
	return found
}

// load reads the anomalies of before.
func (s *Service) load() error {
	text, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read anomalies: %w", err)
	}
	if err := json.Unmarshal(text, &s.anomalies); err != nil {
		s.log.Warn("the list of anomalies is damaged; a new one is begun", "file", s.file, "err", err)
		s.anomalies = nil
	}
	return nil
}

// reopen lets anomalies that went on when the process ended go on. s.mu is held.
func (s *Service) reopen() {
	for _, a := range s.anomalies {
		if a.End != nil {
			continue
		}
		if w := s.watched[key{a.Subject, a.Signal}]; w != nil && w.open == nil {
			w.open, w.verdict.anomalous = a, true
			continue
		}
		a.close(a.Start)
	}
}

// save keeps the list, without what is old.
func (s *Service) save(now time.Time) error {
	s.mu.Lock()
	s.anomalies = slices.DeleteFunc(s.anomalies, func(a *Anomaly) bool { return a.End != nil && now.Sub(*a.End) > keptFor })
	if over := len(s.anomalies) - maxKept; over > 0 {
		s.anomalies = slices.Delete(s.anomalies, 0, over)
	}
	text, err := json.Marshal(s.anomalies)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.file), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(s.file, text, 0o600)
}
