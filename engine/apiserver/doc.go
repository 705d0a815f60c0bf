// Package apiserver is the Kubernetes API of one machine.
//
// Every kind's behaviour is upstream's: its registries (strategies, subresources, printers), its
// request handlers, its admission plugins, its RBAC evaluator and its custom-resource machinery,
// over storage that keeps objects in memory and durable in engine/store. What is ours is the
// assembly, and what one machine makes possible: no etcd, no watch cache, no sockets between the
// components of one process.
//
// It guarantees that a write is answered only after it is durable, except the ones named in
// relaxedWrites; that in-process callers have exactly the rights of the identity they were given;
// and that everything served over the network is encrypted, authenticated and authorized. A
// caller may not assume that Serve has been called before the in-process clients work: they work
// as soon as New returns.
//
// Only cmd/gantry imports it; everything else in Gantry sees a *rest.Config.
package apiserver
