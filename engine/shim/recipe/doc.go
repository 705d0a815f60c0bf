// Package recipe is what gantry-init is told: how to become the first process
// of a container, or a further one. It is a plain description in the terms of
// the kernel, so that the init only executes and decides nothing.
//
// A recipe travels in memory, never on a disk: it holds the environment and
// with it secrets. The program that writes one also hands over the gantry-init
// that reads it, so that both always agree on the encoding; [Version] guards
// against mistakes only.
//
// The package uses only the standard library, and neither fmt nor
// encoding/json: what it links is started once for every container. Only
// engine/shim and engine/node import it.
package recipe
