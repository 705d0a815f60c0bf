// Package controllers makes the state of the cluster follow what users asked
// for: Kubernetes' own controllers and scheduler, unmodified, in this process,
// and the few controllers that one machine needs instead of a cloud.
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
