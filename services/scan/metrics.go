package scan

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantryhq/gantry/services/scan/osvdb"
	"github.com/gantryhq/gantry/services/scan/report"
)

// figures are what the loop knew last.
type figures struct {
	found  map[string]report.Summary // by repository
	images int                       // that were scanned with the database
	status *osvdb.Status             // nil while there is no database
}

// publish takes up what the loop knows, for those who ask for metrics.
func (s *Service) publish() {
	now := figures{found: map[string]report.Summary{}, images: len(s.state.Found), status: s.status}
	for image, n := range s.state.Found {
		repository, _ := splitImage(image)
		sum := now.found[repository]
		sum.Critical, sum.High, sum.Medium = sum.Critical+n.Critical, sum.High+n.High, sum.Medium+n.Medium
		sum.Low, sum.Negligible, sum.Unknown = sum.Low+n.Low, sum.Negligible+n.Negligible, sum.Unknown+n.Unknown
		sum.Fixable, sum.Secrets = sum.Fixable+n.Fixable, sum.Secrets+n.Secrets
		now.found[repository] = sum
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = now
}

// exposition tells of a service as metrics.
type exposition struct{ s *Service }

var (
	findingsDesc = prometheus.NewDesc("gantry_scan_findings", "Vulnerabilities in the tagged images of a repository, each image once.", []string{"repository", "severity"}, nil)
	fixableDesc  = prometheus.NewDesc("gantry_scan_fixable", "Those of them that an update fixes.", []string{"repository"}, nil)
	secretsDesc  = prometheus.NewDesc("gantry_scan_secrets", "Secrets in the tagged images of a repository.", []string{"repository"}, nil)
	imagesDesc   = prometheus.NewDesc("gantry_scan_images", "Images that were scanned with the present database.", nil, nil)
	waitingDesc  = prometheus.NewDesc("gantry_scan_waiting", "Images that wait to be scanned.", nil, nil)
	recordsDesc  = prometheus.NewDesc("gantry_scan_database_records", "Records in the database of vulnerabilities; 0 is no database.", nil, nil)
	newestDesc   = prometheus.NewDesc("gantry_scan_database_newest_timestamp_seconds", "When the newest record of the database was changed.", nil, nil)
)

// Describe implements prometheus.Collector.
func (*exposition) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{findingsDesc, fixableDesc, secretsDesc, imagesDesc, waitingDesc, recordsDesc, newestDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (e *exposition) Collect(to chan<- prometheus.Metric) {
	e.s.mu.Lock()
	known, waiting := e.s.known, len(e.s.queue)
	e.s.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for repository, n := range known.found {
		for severity, count := range map[string]int{"critical": n.Critical, "high": n.High, "medium": n.Medium, "low": n.Low, "negligible": n.Negligible, "unknown": n.Unknown} {
			gauge(findingsDesc, float64(count), repository, severity)
		}
		gauge(fixableDesc, float64(n.Fixable), repository)
		gauge(secretsDesc, float64(n.Secrets), repository)
	}
	gauge(imagesDesc, float64(known.images))
	gauge(waitingDesc, float64(waiting))
	if known.status == nil {
		gauge(recordsDesc, 0)
		return
	}
	gauge(recordsDesc, float64(known.status.Records))
	gauge(newestDesc, float64(known.status.Newest.Unix()))
}
