// Package base makes base images out of the machine's own packages and pushes
// them to a registry, so that Dockerfiles have something to start FROM where no
// public registry is reachable, or none is trusted.
//
// Debian images come from debootstrap and the mirrors this host's apt uses;
// busybox images from the host's static busybox; slim ones hold nothing but the
// files of named packages, which a private apt fetches and checks. The result is an
// OCI image of one layer (image-spec 1.1) whose labels say what is in it, where it
// came from and how to make it again.
//
// Guarantees: the same packages give the same digest; nothing of the host but
// its list of mirrors enters the image; a failure leaves neither files nor a
// half-made tag. An image that exists is not made again unless its inputs
// changed or Refresh is set.
//
// cmd/gantry imports this package, and tests.
package base
