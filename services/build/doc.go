// Package build builds container images from Dockerfiles with BuildKit.
//
// BuildKit runs in a worker process of its own ([Worker]), which a [Client]
// starts when there is something to build and which ends by itself after some
// idle minutes, so that building costs nothing while nobody builds. The worker
// keeps its cache under DataDir/build; results go to a registry or into an
// archive.
//
// Guarantees: the full Dockerfile syntax of BuildKit's built-in frontend
// without any registry; registries on loopback addresses are reached by plain
// HTTP; an error in a build names file and line and carries the end of the
// failed step's output. Callers may not assume that the worker runs, nor that
// anything in the cache is still there.
//
// A build step runs as root in a container with the host's network: build only
// what you would run. cmd/gantry imports this package, and services that build.
// It imports nothing of the engine and no other service.
package build
