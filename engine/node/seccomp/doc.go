// Package seccomp compiles OCI seccomp profiles to the classic BPF programs that
// seccomp(2) installs, in pure Go and fast enough to be done while a container
// starts: well below a millisecond, once per profile.
//
// It follows config-linux.md of the OCI runtime specification. Where that is
// silent it does what runc does with libseccomp, and the tests compare the two
// on every call number of every architecture:
//
//   - Names that no table knows are ignored. Rules whose action is the default
//     action are, too.
//   - A rule without conditions beats all others for its call; of several the
//     first counts.
//   - Conditions of one rule must all hold, unless two of them look at the same
//     argument: then each is a rule of its own.
//   - Under a default action that refuses, calls newer than every one the profile
//     names get ENOSYS, so that programs fall back to older calls.
//   - Calls of an architecture that the profile does not list kill the thread.
//   - On i386, rules for socket and System V IPC calls also govern the forms that
//     go through socketcall and ipc.
//
// It differs where libseccomp is unclear or wrong, and then it is stricter. Where
// several conditional rules with different actions match, the strictest wins;
// libseccomp's result depends on the order of its internal tree. Calls of the x32
// ABI are never allowed: they kill the thread, or get ENOSYS where the profile
// lists that architecture. And names are looked up in newer tables, so that a
// profile's newest calls are allowed rather than unknown.
//
// SCMP_ACT_NOTIFY is refused: nobody here would answer. Callers may not assume
// that a program is usable on another architecture than the one it was compiled
// on. Only the drivers below engine/node import this package.
package seccomp

//go:generate go run generate.go
