package monitor

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"
)

// How many series workloads may begin. A series is in memory for two to three hours after its last sample, also when the
// scrape that began it has failed, so limits of one scrape do not bound what a target costs whose labels always change.
const (
	// newSeries is how many series a target may begin at once, and newPerHour how many in each hour of a long time.
	newSeries, newPerHour = 3 * sampleLimit, sampleLimit
	// ofReport are series that tell how scraping goes: some more of them may begin.
	ofReport = 100
	// maxSeries is how many series there may be before workloads may begin no others; each takes 1 to 4 kB.
	maxSeries = 250_000
)

// dam lets no target flood the database with series. What exceeds it fails the scrape, which says why among the targets.
type dam struct {
	storage.AppendableV2
	series func() uint64 // in memory
	now    func() time.Time
	refuse *prometheus.CounterVec

	mu      sync.Mutex           // guards following
	targets map[string]allowance // by address
	swept   time.Time
}

// allowance is how many series a target may begin.
type allowance struct {
	at   time.Time
	left float64
}

func newDam(to storage.AppendableV2, series func() uint64, metrics prometheus.Registerer) *dam {
	d := &dam{AppendableV2: to, series: series, now: time.Now, targets: map[string]allowance{}, refuse: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gantry_monitor_refused_series_total", Help: "Series that targets of workloads were not let begin, because there were too many.",
	}, []string{"scrape_job"})}
	metrics.MustRegister(d.refuse)
	return d
}

// AppenderV2 implements storage.AppendableV2.
func (d *dam) AppenderV2(ctx context.Context) storage.AppenderV2 {
	target, _ := scrape.TargetFromContext(ctx)
	return &dammed{d.AppendableV2.AppenderV2(ctx), d, target}
}

type dammed struct {
	storage.AppenderV2
	dam    *dam
	target *scrape.Target
}

// Append implements storage.AppenderV2. Scraping knows the references of series that it has begun.
func (a *dammed) Append(ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, o storage.AppendV2Options) (storage.SeriesRef, error) {
	if ref == 0 {
		if err := a.dam.begin(a.target.URL().String(), ls); err != nil {
			job := a.target.Labels(labels.NewBuilder(labels.EmptyLabels())).Get(model.JobLabel)
			a.dam.refuse.WithLabelValues(job).Inc()
			return 0, err
		}
	}
	return a.AppenderV2.Append(ref, ls, st, t, v, h, fh, o)
}

// begin tells why a series of a target may not begin.
func (d *dam) begin(target string, ls labels.Labels) error {
	reserve := 0.0
	if name := ls.Get(model.MetricNameLabel); name == "up" || strings.HasPrefix(name, "scrape_") {
		reserve = ofReport
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	d.sweep(now)
	a, known := d.targets[target]
	if !known {
		a = allowance{now, newSeries}
	}
	a.left = min(newSeries, a.left+newPerHour*now.Sub(a.at).Hours())
	a.at = now
	var err error
	switch {
	case a.left+reserve < 1:
		err = fmt.Errorf("the target begins too many new series, more than %d at once and %d an hour: labels whose values always change are to be left out", newSeries, newPerHour)
	case reserve == 0 && d.series() >= maxSeries:
		err = fmt.Errorf("there are %d series already, and no new ones of workloads are stored", maxSeries)
	default:
		a.left--
	}
	d.targets[target] = a
	return err
}

// sweep forgets targets that may begin as many series as any other. The caller holds mu.
func (d *dam) sweep(now time.Time) {
	if now.Sub(d.swept) < time.Minute {
		return
	}
	d.swept = now
	for key, a := range d.targets {
		if a.left+newPerHour*now.Sub(a.at).Hours() >= newSeries {
			delete(d.targets, key)
		}
	}
}
