// Package images tells what is known of the images in a registry, for people who look at them: which
// image each is built on, who signed it, from which commit it was made, and what its scan found.
//
// It reads the registry as any client does and keeps nothing but a short memory. What it says of
// signatures, provenance and scans it has verified with the keys that the installation knows (its
// own, and those in TrustPolicies); whether an image may run is not decided here. The base of an
// image is told by layers, as with TrustPolicies: the image whose layers are the most of its first
// ones. Somebody is told of the repositories that they may pull, and of no others.
//
// Only cmd/gantry imports it.
package images
