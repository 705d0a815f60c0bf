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
// failed step's output; a context that arrives as an archive writes nothing outside
// of its directory. Callers may not assume that the worker runs, nor that
// anything in the cache is still there.
//
// Steps run confined by [sandbox]: a Dockerfile from somebody else reaches neither
// this machine nor anything on it, only the outside. Base images are pulled, and
// results pushed, by the worker itself, which reaches the built-in registry.
// cmd/gantry imports this package, and services that build. It imports nothing of
// the engine and no other service.
package build
