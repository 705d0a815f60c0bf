// Package logs makes the logs of all containers searchable, and follows them.
//
// Lines are read from log files in the layout of a kubelet (package crilog): those of this node, when
// there is a directory of them, else such that the service writes itself of what the API tells
// (spool.go). What has been read is put into an archive in compressed chunks (package archive); the last
// part of each file is not copied, but searched where it is. Questions are asked in LogQL (package logql)
// at Loki's HTTP API (package loki). What has changed in the cluster is on a time line (package timeline).
//
// Guarantees: a line that is in a log file is found until it is too old or there are too many, also when
// its container and its pod are gone, and no line is found twice, whenever the process ends. Who asks
// sees the logs that they may get with kubectl. A container that floods loses lines of its own, which are
// counted, and nobody else does.
//
// All it gets is a *rest.Config and directories, so it runs on any cluster. Only cmd/gantry imports it.
package logs
