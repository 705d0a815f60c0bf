// Package anomaly learns what is usual for every workload and route, without configuration, and tells when
// something is not: request rate, errors and latency of routes; processor time, memory, restarts and log lines
// of workloads.
//
// Once a minute it asks the Prometheus HTTP API for each signal and compares it with a baseline made of medians
// (baseline.go says how, and after whom). A signal that leaves its baseline for several minutes is an anomaly. What
// changed just before (deploys, configuration, scaling, restarts, anomalies of neighbours) is noted with it as a
// possible cause. An anomaly alone wakes nobody: the rule on it asks for a second signal.
//
// It is a client of the Kubernetes API server's address, where /prometheus/ and /timeline/ are, and runs on any
// cluster that has both. What it has learnt is in Prometheus's series (see Service.Metrics) and is read from there at a start.
// It does not claim that a cause is one: it orders what happened by nearness in time and place.
package anomaly
