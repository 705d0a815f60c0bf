package timeline

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/gantryhq/gantry/internal/samples"
)

// Alerts reads alerts from the series ALERTS, which rules leave in Prometheus's database.
type Alerts struct {
	Samples *samples.Reader
	// Workload is the workload that a pod of a namespace belongs to, or "".
	Workload func(namespace, pod string) string
}

// alertSteps is how finely a time is looked at.
const alertSteps = 500

// read returns the alerts that were firing.
func (a *Alerts) read(ctx context.Context, f Filter) ([]Event, error) {
	step := max(f.To.Sub(f.From)/alertSteps, 5*time.Second).Truncate(time.Second)
	query := `ALERTS{alertstate="firing"`
	if f.Namespace != "" {
		query += `,namespace=` + strconv.Quote(f.Namespace)
	}
	found, err := a.Samples.Matrix(ctx, query+"}", f.From, f.To, step)
	if err != nil {
		return nil, err
	}
	var events []Event
	for _, series := range found {
		for _, e := range a.firing(series, step, f.To) {
			if f.May(e.Namespace) && f.fits(&e) {
				events = append(events, e)
			}
		}
	}
	return events, nil
}

// firing makes an event of each time that an alert fired without a pause.
func (a *Alerts) firing(s *model.SampleStream, step time.Duration, until time.Time) (events []Event) {
	label := func(name string) string { return string(s.Metric[model.LabelName(name)]) }
	details := map[string]string{}
	for name, v := range s.Metric {
		if name != "__name__" && name != "alertstate" {
			details[string(name)] = string(v)
		}
	}
	var before time.Time
	for _, sample := range s.Values {
		at := sample.Timestamp.Time()
		if n := len(events); n > 0 && at.Sub(before) <= 2*step {
			before = at
			continue
		} else if n > 0 {
			end := before.Add(step)
			events[n-1].End = &end
		}
		before = at
		e := Event{Time: at, Kind: "alert", Severity: severity(label("severity")), Namespace: label("namespace"), Details: details, Key: at.UTC().Format(time.RFC3339)}
		e.Workload = cmp.Or(label("deployment"), label("statefulset"), label("daemonset"), label("workload"))
		switch pod := label("pod"); {
		case pod != "":
			e.Object = "pod/" + pod
			e.Workload = cmp.Or(e.Workload, a.Workload(e.Namespace, pod))
		case e.Workload != "":
			e.Object = "workload/" + e.Workload
		}
		e.Message = strings.TrimSpace("alert " + label("alertname") + " " + cmp.Or(label("container"), label("job")))
		events = append(events, e)
	}
	if n := len(events); n > 0 && until.Sub(before) > 2*step {
		end := before.Add(step)
		events[n-1].End = &end
	}
	return events
}

func severity(s string) string {
	switch s {
	case "critical", "error", "page":
		return "error"
	case "info", "none":
		return "info"
	}
	return "warning"
}
