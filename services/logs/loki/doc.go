// Package loki answers at the HTTP API by which Grafana's Loki data source, logcli and others ask for logs
// (https://grafana.com/docs/loki/latest/reference/loki-http-api/): query, query_range, labels, label
// values, series, index/stats, index/volume, tail. It is an implementation of its own, after that
// description.
//
// Who asks must have been authenticated. They see logs of the namespaces that Config.Rights allows; a
// question that names another one is refused.
//
// Imported by services/logs.
package loki
