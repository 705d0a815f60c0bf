// Package scan finds what is wrong with images: known vulnerabilities of what is
// installed, secrets, and faults of how they are made; when told to, whenever one is
// pushed and whenever more becomes known.
//
// [Scanner] does one scan: it reads the image's layers (package inspect), looks the
// packages up in a database that is an artefact in the registry (package osvdb), and
// returns a report (package report). No network but the registry is used. [Service]
// is the part that runs all the time: a queue whose work is done by a child process
// that ends when idle, so that it costs nothing while nothing is pushed; results are
// signed attestations on the images, and what is new in an image that runs becomes an
// Event of its pods.
//
// A report is about one digest and one database: callers may not take one for the
// answer to another. Secrets that are found are never part of a report.
//
// Imported by cmd/gantry, which gives it keys, registry and the command of the worker.
package scan
