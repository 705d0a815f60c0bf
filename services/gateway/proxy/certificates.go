package proxy

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// certificates tells when the key pairs in the table in force end, under the names and labels of
// x509-certificate-exporter.
type certificates struct{ table func() *route.Table }

var (
	certificateLabels = []string{"secret_namespace", "secret_name", "subject_CN"}
	notAfterDesc      = prometheus.NewDesc("x509_cert_not_after", "When a certificate that is served ends, in seconds since 1970.", certificateLabels, nil)
	notBeforeDesc     = prometheus.NewDesc("x509_cert_not_before", "When a certificate that is served begins, in seconds since 1970.", certificateLabels, nil)
)

// Describe implements prometheus.Collector.
func (c certificates) Describe(to chan<- *prometheus.Desc) {
	to <- notAfterDesc
	to <- notBeforeDesc
}

// Collect implements prometheus.Collector.
func (c certificates) Collect(to chan<- prometheus.Metric) {
	t := c.table()
	if t == nil {
		return
	}
	seen := map[string]bool{}
	t.EachCertificate(func(k *route.Certificate) {
		namespace, name, _ := strings.Cut(k.Source, "/")
		if seen[k.Source] || k.Pair.Leaf == nil {
			return
		}
		seen[k.Source] = true
		for desc, at := range map[*prometheus.Desc]time.Time{notAfterDesc: k.Pair.Leaf.NotAfter, notBeforeDesc: k.Pair.Leaf.NotBefore} {
			to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(at.Unix()), namespace, name, k.Pair.Leaf.Subject.CommonName)
		}
	})
}
