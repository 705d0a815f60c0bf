// Package cgroup is an instance's part of the host's control groups: version 2,
// or version 1 with its controllers in hierarchies of their own.
//
// It makes groups with limits for the node's own launcher, and kills, measures
// and removes groups for every driver. Only engine/node imports it.
package cgroup
