// Package alerts holds the alert rules that come with the program (services/alerts/defaults) against a
// world in which things go wrong, and one in which nothing does.
//
// Time is simulated, the rest is real where it can be: Prometheus's database, query engine and rule groups,
// evaluated at simulated times over samples that a scrape would have brought at these times, staleness and
// failed scrapes included; the rule files as they are; the exposition of the API's objects
// (services/monitor/objects) over Kubernetes objects. What containers, the machine and the gateway tell is made by
// a model, and TestTheModelTellsWhatGantryTells holds its names and labels against a running Gantry.
//
// `make bench-alerts` counts what was missed and what was false; docs/bench-alerts.md has the last report.
package alerts
