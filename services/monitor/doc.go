// Package monitor keeps what can be measured: it scrapes nodes, containers, the API's
// objects, Gantry's own parts and whatever workloads offer, stores the samples in Prometheus's
// time series database, and answers PromQL at the Prometheus HTTP API (package api).
//
// Database, scraping, discovery and query engine are Prometheus's own packages. Ours is what is
// scraped without configuration (jobs.go), which ServiceMonitors, PodMonitors and annotations
// become scrape jobs (monitors.go), the figures of the API's objects (package objects), and the
// limits on targets and queries.
//
// Guarantees: samples are kept for the configured time and size, and one that was scraped
// survives the end of the process in any way. A target that is slow, too big or wrong costs its
// own samples only, and says so among the targets. What workloads offer is fetched apart from the
// platform's own figures: a monitor can reach neither the machine's loopback addresses nor,
// with the service's rights, the API.
//
// All it gets is a *rest.Config and a directory, so it runs on any cluster. Who asks must have
// been authorized: samples of all namespaces are in one database. Only cmd/gantry imports it.
package monitor
