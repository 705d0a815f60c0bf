package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of sock_diag(7) and linux/inet_diag.h.
const (
	diagRequestSize = 56 // inet_diag_req_v2
	diagMessageSize = 72 // inet_diag_msg
	diagInode       = 68 // offset in it
	diagBytecode    = 1  // INET_DIAG_REQ_BYTECODE
	diagDestination = 8  // INET_DIAG_BC_D_COND

	tcpEstablished = 1
	tcpSynSent     = 2
)

// Clients returns how many TCP connections other processes of this host have to a
// pod's address, or are opening. What they are for nobody can tell, but the
// gateway keeps none to an endpoint that it was told to leave, apart from those
// with a request under way.
func (n *Network) Clients(ip netip.Addr) (int, error) {
	if !ip.Is4() {
		return 0, nil
	}
	inodes, err := connectedTo(ip)
	if err != nil || len(inodes) == 0 {
		return 0, err
	}
	own, err := ownSockets()
	if err != nil {
		return 0, err
	}
	others := 0
	for _, inode := range inodes {
		if !own[inode] {
			others++
		}
	}
	return others, nil
}

// connectedTo asks the kernel for the sockets of this network namespace that are
// connected to an address. It is the kernel that looks through them.
func connectedTo(ip netip.Addr) (inodes []uint32, err error) {
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.AddData(diagRequest(ip))
	messages, err := request.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return nil, fmt.Errorf("list connections to %s: %w", ip, err)
	}
	for _, m := range messages {
		if len(m) >= diagMessageSize {
			inodes = append(inodes, binary.NativeEndian.Uint32(m[diagInode:]))
		}
	}
	return inodes, nil
}

// diagRequest is a request with a filter of one condition.
type diagRequest netip.Addr

func (d diagRequest) Len() int { return len(d.Serialize()) }

func (d diagRequest) Serialize() []byte {
	b := make([]byte, diagRequestSize, diagRequestSize+24)
	b[0], b[1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 1<<tcpEstablished|1<<tcpSynSent)
	// A condition of 16 bytes: past it a socket is taken, further on it is not.
	const size, attribute = 16, 4 + 16
	b = binary.NativeEndian.AppendUint16(b, attribute)
	b = binary.NativeEndian.AppendUint16(b, diagBytecode)
	b = append(b, diagDestination, size)
	b = binary.NativeEndian.AppendUint16(b, size+4)
	b = append(b, unix.AF_INET, 32, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // any port
	address := netip.Addr(d).As4()
	return append(b, address[:]...)
}

// ownSockets are the inodes of this process's sockets.
func ownSockets() (map[uint32]bool, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("list own sockets: %w", err)
	}
	own := map[uint32]bool{}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // closed meanwhile
		}
		text, ok := strings.CutPrefix(target, "socket:[")
		if inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 32); ok && err == nil {
			own[uint32(inode)] = true
		}
	}
	return own, nil
}
