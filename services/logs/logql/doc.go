// Package logql parses questions about logs in LogQL and answers what of them concerns one line.
//
// It knows: stream selectors; the line filters |=, !=, |~ and !~; the parsers json and logfmt, drop and keep, and
// filters on labels; count_over_time, rate, bytes_over_time and bytes_rate; sum, min, max,
// avg, count, topk and bottomk over these, by or without labels; and sums of vector(N), which Grafana asks to see
// whether anybody answers. All else is refused by name. The language is described at
// https://grafana.com/docs/loki/latest/query/; this is an implementation of its own, after that description.
//
// Imported by services/logs and its packages.
package logql
