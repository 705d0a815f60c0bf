package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/component-base/metrics/legacyregistry"
)

// figures are metrics of the instance itself: its certificates, under the names and labels of
// x509-certificate-exporter, and its backups.
type figures struct {
	in *server

	mu     sync.Mutex
	served map[string]func(*tls.ClientHelloInfo) (*tls.Certificate, error) // by what they are for
}

var (
	certificateLabels = []string{"filename", "subject_CN"}
	notAfterDesc      = prometheus.NewDesc("x509_cert_not_after", "When a certificate of the instance ends, in seconds since 1970.", certificateLabels, nil)
	notBeforeDesc     = prometheus.NewDesc("x509_cert_not_before", "When a certificate of the instance begins, in seconds since 1970.", certificateLabels, nil)
	backupDesc        = prometheus.NewDesc("gantry_backup_last_success_timestamp_seconds",
		"When the newest automatic backup was made; 0 is never.", nil, nil)
)

// startFigures offers them with the other metrics of the process.
func startFigures(_ context.Context, in *server) error {
	legacyregistry.RawMustRegister(&in.figures)
	return nil
}

// follow tells of the certificate that is served for something from now on.
func (f *figures) follow(name string, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.served == nil {
		f.served = map[string]func(*tls.ClientHelloInfo) (*tls.Certificate, error){}
	}
	f.served[name] = certificate
}

// Describe implements prometheus.Collector.
func (f *figures) Describe(to chan<- *prometheus.Desc) {
	to <- notAfterDesc
	to <- notBeforeDesc
	to <- backupDesc
}

// Collect implements prometheus.Collector.
func (f *figures) Collect(to chan<- prometheus.Metric) {
	newest := 0.0
	if names, err := backups(f.in.dataDir); err == nil && len(names) > 0 {
		if at, err := time.Parse(backupName, names[len(names)-1]); err == nil {
			newest = float64(at.Unix())
		}
	}
	to <- prometheus.MustNewConstMetric(backupDesc, prometheus.GaugeValue, newest)
	lasts := func(name string, c *x509.Certificate) {
		to <- prometheus.MustNewConstMetric(notAfterDesc, prometheus.GaugeValue, float64(c.NotAfter.Unix()), name, c.Subject.CommonName)
		to <- prometheus.MustNewConstMetric(notBeforeDesc, prometheus.GaugeValue, float64(c.NotBefore.Unix()), name, c.Subject.CommonName)
	}
	// The first of the bundle issues; the others are trusted until they end by themselves.
	if block, _ := pem.Decode(f.in.api.CABundle()); block != nil {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			lasts("ca.crt", c)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, certificate := range f.served {
		if c, err := certificate(nil); err == nil && c.Leaf != nil {
			lasts(name, c.Leaf)
		}
	}
}
