// Package alerts tells people what is wrong: it evaluates rules over the samples of
// services/monitor, and groups, inhibits, silences and sends what fires.
//
// Rules are evaluated by Prometheus's rule manager, alerts handled by Alertmanager's packages, and
// its API (version 2) is served, so that amtool and others that speak it work. Ours is which rules
// there are (packages defaults and ruleset) and what they may see.
//
// All it gets is a *rest.Config, a directory and the samples, so it runs on any cluster. Who asks must
// have been authorized. Only cmd/gantry imports it.
package alerts
