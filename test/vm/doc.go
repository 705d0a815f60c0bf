// Package vm tests Gantry on a host of its own: Debian with its kernel, systemd,
// control groups of version 2 alone and AppArmor, in a virtual machine without a
// network. It reboots, and its power fails.
//
// `make vm` builds the machine's disk (script run) and runs the tests. QEMU emulates the
// processor unless it is told to use KVM, which takes ten times as long: every wait is
// generous. It is all tests; nothing imports it.
package vm
