// Package volume makes a pod's volumes present on the host and removes them.
//
// SetUp is idempotent and may be repeated after a crash at any point; Refresh
// writes projected content anew, atomically for readers, with upstream's
// AtomicWriter. Secrets and tokens are written to memory only. TearDown unmounts
// before it deletes and never deletes across a mount: what a pod mounted from the
// host or from a claim stays.
//
// Only engine/node imports this package.
package volume
