// Package node is the node agent: it makes the pods that are bound to this
// machine run, with the kubelet's behaviour and without its polling loops.
//
// One worker per pod is woken by whatever changed (the pod, an exit, a probe, a
// finished operation, a timer), looks at everything it knows and takes the next
// steps. What to do ([next] in step.go) and what to report ([podStatus] in
// status.go) are pure functions of the pod and the [view]; all effects are in
// operations that end by changing the view and waking the worker again. A worker
// keeps nothing that it cannot find again: containers through the driver's
// labels, the sandbox through its file, the rest through the pod's status. So the
// process may be killed at any moment and its successor adopts what runs.
//
// Callers may not assume that a pod's processes are gone before its API object
// is, except when the object was deleted gracefully: then the node deletes it,
// last of all.
//
// Only cmd/gantry imports this package.
package node
