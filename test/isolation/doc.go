// Package isolation holds the adversarial suite of the container drivers.
//
// It runs the same container with runc, the reference, and with Gantry's own
// launcher, the candidate, through the same runtime.Driver. A program inside
// (package probe) reports everything that it is, sees and may; both reports must
// agree on every point that is not on an explained list. Some points must come
// out in one way whatever runc does. Hostile programs then attack what is only
// open for a moment: a start, an exec.
//
// What it found is told in docs/isolation.md. It is all tests; nothing imports it.
package isolation
