// Package prometheus holds the monitor against Debian's Prometheus: the answers of both over the same samples, as
// Grafana and promtool ask for them; what both cost when they scrape the same targets; and sending samples on to it.
//
// Programs are bin/prometheus and bin/promtool (script/prometheus puts them there) or those on the PATH. Without
// them tests are skipped, unless GANTRY_PROMETHEUS=required says that they must be there, as `make equal-prometheus` does.
package prometheus
