package monitor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"
)

// A target whose labels always change is cut off; its neighbours are not, and it may tell that it is down.
func TestTheDam(t *testing.T) {
	now, series := time.Now(), uint64(0)
	d := newDam(nil, func() uint64 { return series }, prometheus.NewRegistry())
	d.now = func() time.Time { return now }
	begin := func(name, instance string, n int) error {
		return d.begin(instance, labels.FromStrings("__name__", name, "n", fmt.Sprint(n)))
	}
	for i := range newSeries {
		if err := begin("x", "a", i); err != nil {
			t.Fatalf("series %d of %d: %v", i, newSeries, err)
		}
	}
	if err := begin("x", "a", newSeries); err == nil || !strings.Contains(err.Error(), "too many new series") {
		t.Errorf("one more: %v", err)
	}
	for _, name := range []string{"up", "scrape_duration_seconds"} {
		if err := begin(name, "a", 0); err != nil {
			t.Errorf("%s is refused: %v", name, err)
		}
	}
	if err := begin("x", "b", 0); err != nil {
		t.Errorf("a neighbour is refused: %v", err)
	}
	for range 2 * ofReport {
		_ = begin("up", "a", 0)
	}
	if err := begin("up", "a", 1); err == nil {
		t.Error("a flood of series called up is let through")
	}
	now = now.Add(time.Hour)
	if err := begin("x", "a", 0); err != nil {
		t.Errorf("an hour later: %v", err)
	}
	now = now.Add(10 * time.Hour)
	if err := begin("x", "b", 0); err != nil || len(d.targets) != 1 {
		t.Errorf("%v; %d targets are known, of which one began a series lately", err, len(d.targets))
	}
	series = maxSeries
	if err := begin("x", "c", 0); err == nil || !strings.Contains(err.Error(), "series already") {
		t.Errorf("with as many series as may be: %v", err)
	}
}

// What is refused fails the append and is counted, and known series pass.
func TestTheDamBeforeTheDatabase(t *testing.T) {
	db, err := openStorage(testConfig(t.TempDir()), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	d := newDam(&onward{db: db}, db.Head().NumSeries, prometheus.NewRegistry())
	target := scrape.NewTarget(labels.FromStrings("__address__", "a", "__scheme__", "http", "__metrics_path__", "/m", "job", "web"), &promconfig.ScrapeConfig{}, nil, nil)
	a := d.AppenderV2(scrape.ContextWithTarget(t.Context(), target))
	at := time.Now().UnixMilli()
	one := labels.FromStrings("__name__", "x", "job", "web", "instance", "a")
	ref, err := a.Append(0, one, 0, at, 1, nil, nil, storage.AppendV2Options{})
	if err != nil {
		t.Fatal(err)
	}
	d.targets["http://a/m"] = allowance{at: time.Now()}
	if _, err := a.Append(0, labels.FromStrings("__name__", "y", "job", "web", "instance", "a"), 0, at, 1, nil, nil, storage.AppendV2Options{}); err == nil {
		t.Error("a series too many is stored")
	}
	if n := testutil.ToFloat64(d.refuse.WithLabelValues("web")); n != 1 {
		t.Errorf("%v series are counted as refused, 1 was", n)
	}
	if _, err := a.Append(ref, one, 0, at+1, 2, nil, nil, storage.AppendV2Options{}); err != nil {
		t.Errorf("a known series is refused: %v", err)
	}
	if err := a.Commit(); err != nil {
		t.Fatal(err)
	}
	if n := db.Head().NumSeries(); n != 1 {
		t.Errorf("%d series are stored, 1 may be", n)
	}
}
