// Package bench measures what Gantry promises: how fast a deployment grows and
// what a pod costs. `make bench` runs it against a Gantry of its own.
//
// Wall times depend on the machine and on what else it does; compare them with
// another system's in the same minute, or look at the CPU time per pod. Only
// tests import this package.
package bench
