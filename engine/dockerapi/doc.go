// Package dockerapi speaks the Docker Engine API over the instance's pods and images,
// so that the docker command line, Compose, Testcontainers and build plugins work
// unchanged. One engine, two doors: a container made here is a pod in the namespace
// [Namespace] that kubectl shows too, an image made here is one that pods can name.
//
// A container is a record (a Secret, for its environment may hold secrets) and, from
// its start on, a pod; its writable layer is kept by the image store from create to rm,
// so it survives stop and start. Networks and volumes are ConfigMaps; a network is a
// NetworkPolicy and a headless Service whose endpoints carry its containers' names.
//
// Guarantees: a request that cannot be honoured is refused with a sentence that says
// why; nothing is run with less isolation than asked for. Answers have the shape of API
// 1.51, and clients from 1.24 on are served. Nothing is watched before the first request
// of an instance that has no containers of this kind.
//
// Callers may not assume that requests are authorized: whoever reaches the handler is
// root on this machine, as with dockerd. Serve it on a socket for root or with client
// certificates.
//
// Only cmd/gantry imports this package. It imports engine/image, whose images it offers,
// and the words of engine/node/runtime; containers it reaches through the Kubernetes
// API, and through [Machine] and the annotation of [runtime.Extras] where that has no word
// for something.
package dockerapi
