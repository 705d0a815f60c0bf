// Package controllers makes the state of the cluster follow what users asked
// for: Kubernetes' own controllers and scheduler in this process, and a few of
// our own where one machine needs something else than a cloud, or can do it
// sooner (docs/decisions/0012-controllers-that-are-ours.md).
//
// The list of what runs is the function all. Each controller talks to the API
// as its own upstream identity (Identity), so that upstream's roles limit it
// as they do in any cluster. They share one set of informers. Nothing here
// touches the store, containers or the network.
//
// Left out because one machine has no use for them: node lifecycle and node
// address management, cloud services and routes, attach/detach and expansion
// of network volumes, certificate signing.
//
// Only cmd/gantry imports this package.
package controllers
