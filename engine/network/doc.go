// Package network connects pods: to each other, to services, to the host and to
// the world.
//
// Every instance has one Linux bridge, one nftables table and one DNS address, all
// named after its data directory, so that instances live side by side and never
// touch anything that is not theirs. Pods are routed: a pod's address is a /32 whose
// only neighbour is the bridge, so every packet passes the host's IP layer, where
// services are translated, and whether the host also filters bridged frames
// (br_netfilter) makes no difference.
//
// Guarantees: Attach and Detach are idempotent and safe in parallel; a pod keeps its
// address while `gantry serve` restarts; a freed address is not reused until the
// others have had their turn; a change of a service is one nftables transaction and
// never disturbs another service; Cleanup removes everything and only what this
// package put into the kernel, also when nothing else of the instance is left.
// Callers may not assume IPv6: pods and services have IPv4 addresses.
//
// Cluster DNS follows the Kubernetes DNS-Based Service Discovery specification
// 1.1.0. The files it leaves are described in docs/formats/network.md.
//
// Only engine/node and cmd/gantry (to open and to clean up) import this package; only
// this package imports those below it.
package network
