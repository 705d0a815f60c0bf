package seccomp

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// abi is one way to call the kernel.
type abi struct {
	name   specs.Arch
	audit  uint32 // AUDIT_ARCH_*, what a filter sees
	wide   bool   // arguments have 64 bits
	x32    bool   // call numbers with bit 30 belong to another ABI
	number func(name string) (uint32, bool)
	// multiplexed tells which calls are also reached through a common one.
	multiplexed func(name string) (common, selector uint32, ok bool)
}

// machine lists the ABIs that a kernel offers, the native one first.
func machine(goarch string) ([]abi, error) {
	switch goarch {
	case "amd64":
		return []abi{
			{name: specs.ArchX86_64, audit: unix.AUDIT_ARCH_X86_64, wide: true, x32: true, number: numberAMD64},
			{name: specs.ArchX86, audit: unix.AUDIT_ARCH_I386, number: number386, multiplexed: multiplexed386},
		}, nil
	case "arm64":
		return []abi{
			{name: specs.ArchAARCH64, audit: unix.AUDIT_ARCH_AARCH64, wide: true, number: numberARM64},
			{name: specs.ArchARM, audit: unix.AUDIT_ARCH_ARM, number: numberARM},
		}, nil
	}
	return nil, fmt.Errorf("call numbers of %s are not known here: use the RuntimeClass runc on this machine", goarch)
}

// listedArchitectures checks the names of a profile. Those that this machine can
// never see change nothing.
func listedArchitectures(names []specs.Arch) (map[specs.Arch]bool, error) {
	known := []specs.Arch{
		specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64,
		specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32,
		specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64,
		specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB,
	}
	listed := map[specs.Arch]bool{}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("architecture %q is unknown: names are those of the OCI runtime specification, such as SCMP_ARCH_X86_64", name)
		}
		listed[name] = true
	}
	return listed, nil
}

// multiplexed386 is the list of linux/net.h and linux/ipc.h: what socketcall and
// ipc take as their first argument.
func multiplexed386(name string) (common, selector uint32, ok bool) {
	const socketcall, ipc = 102, 117
	sockets := [...]string{1: "socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send", "recv",
		"sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg", "sendmmsg"}
	queues := [...]string{1: "semop", 2: "semget", 3: "semctl", 4: "semtimedop", 11: "msgsnd", 12: "msgrcv", 13: "msgget", 14: "msgctl",
		21: "shmat", 22: "shmdt", 23: "shmget", 24: "shmctl"}
	if name == "" {
		return 0, 0, false
	}
	if i := slices.Index(sockets[:], name); i > 0 {
		return socketcall, uint32(i), true
	}
	if i := slices.Index(queues[:], name); i > 0 {
		return ipc, uint32(i), true
	}
	return 0, 0, false
}
