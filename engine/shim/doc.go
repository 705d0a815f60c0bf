// Package shim is the client of the shim, the one parent process of all
// containers of a data directory, and carries the shim's executable.
//
// A [Client] starts the shim when none answers and connects anew for every
// request, so it needs no reconnecting of its own; only [Client.Events] is a
// stream, and ends when the shim does. Errors about a container that the shim
// does not know satisfy errors.Is(err, fs.ErrNotExist).
//
// Package shimd holds the other side, package protocol what both speak.
// Only engine/node imports this package.
package shim
