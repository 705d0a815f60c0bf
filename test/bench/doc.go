// Package bench measures what Gantry promises: how fast a deployment grows and
// shrinks, what a pod costs in processor time and memory, and how Docker Swarm
// does the same work in the same run where it is installed. `make bench` runs it.
//
// Wall times depend on the machine and on what else it does; the ratios to the
// peer and the processor time per pod depend on it less. Each system runs alone,
// in namespaces and directories of its own, and leaves nothing behind. Only tests
// import this package.
//
//	BENCH_SYSTEMS   which, in this order (default "swarm runc gantry": the peer, then
//	                Gantry with each of its drivers; "default" is Gantry's own choice)
//	BENCH_ROUNDS    how often each step is repeated (default 3)
//	BENCH_MANY      replicas of the big step (default 200, 0 leaves it out)
//	BENCH_JSON      a file for the results, besides the last line of the output
package bench
