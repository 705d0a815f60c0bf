// Package store keeps the engine's API objects: an ordered key space in
// memory, durable in one bbolt file, with a single revision that counts every
// change and a watch that can start at any recent revision.
//
// What it guarantees:
//
//   - A durable write is acknowledged, and becomes visible to anyone, only
//     after its bbolt transaction is on disk. Writes that wait at the same time
//     share one transaction.
//   - A relaxed write (Value.Relaxed) is visible at once and reaches the disk
//     with the next commit, at the latest Options.RelaxedDelay later. It is lost
//     only if the process dies in between, never in a clean Close.
//   - The disk always holds the exact state of one revision: a commit carries
//     every relaxed write made before it.
//   - Revisions grow by at least one per change, are never reused and never go
//     backwards, not even for relaxed writes lost in a crash. They may have gaps.
//   - Readers never block writers, nor writers readers. A View, a List and an
//     Entry are immutable and stay valid for as long as they are held.
//   - A watcher sees every change below its prefix exactly once, in revision
//     order; one that cannot keep up is closed with ErrSlowWatcher.
//
// What a caller may not assume: that revisions of one key are consecutive;
// that old revisions stay readable (ErrCompacted says they are not); that the
// object of an Entry may be changed (it is shared by everyone).
//
// The package knows nothing of Kubernetes. Values are opaque bytes with an
// optional decoded form, which a Codec registered for the key's prefix makes
// on demand, so that nothing is decoded at start before somebody reads it.
//
// Only engine/apiserver uses it, and cmd/gantry to open the file. The file is
// described in docs/formats/store.md.
package store
