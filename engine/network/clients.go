package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of sock_diag(7) and linux/inet_diag.h.
const (
	diagRequestSize = 56 // inet_diag_req_v2
	diagMessageSize = 72 // inet_diag_msg
	diagPeer        = 24 // offset in it: the peer's address
	diagInode       = 68 // and the socket's inode
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
	l, leads := n.looks.join(ip)
	if leads {
		n.looks.lead(l)
	}
	<-l.done
	return l.clients[ip], l.err
}

// looks are looks at the host's connections. The kernel goes through all of them for
// each, which takes milliseconds, so pods that end together are looked at together.
type looks struct {
	turn sync.Mutex // held by the look that is under way

	mu   sync.Mutex // guards next
	next *look
}

// look is one of them. It begins after everybody has joined who shares what it sees.
type look struct {
	addresses []netip.Addr // until it begins
	done      chan struct{}
	clients   map[netip.Addr]int // after done
	err       error
}

// join has the next look include an address. Whoever is the first has to lead it.
func (s *looks) join(ip netip.Addr) (l *look, leads bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next, leads = &look{done: make(chan struct{})}, true
	}
	s.next.addresses = append(s.next.addresses, ip)
	return s.next, leads
}

// lead takes the look when the one under way is over.
func (s *looks) lead(l *look) {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	defer close(l.done)
	l.clients, l.err = clientsOf(l.addresses)
}

// clientsOf counts the connections of other processes to each address.
func clientsOf(addresses []netip.Addr) (map[netip.Addr]int, error) {
	found, err := connectedTo(common(addresses))
	if err != nil || len(found) == 0 {
		return nil, err
	}
	own, err := ownSockets()
	if err != nil {
		return nil, err
	}
	clients := map[netip.Addr]int{}
	for _, c := range found {
		if !own[c.inode] {
			clients[c.to]++
		}
	}
	return clients, nil
}

// common is the longest prefix of all addresses, of which there is at least one.
func common(addresses []netip.Addr) netip.Prefix {
	p := netip.PrefixFrom(addresses[0], addresses[0].BitLen())
	for _, ip := range addresses[1:] {
		for !p.Contains(ip) {
			p = netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked()
		}
	}
	return p
}

// connection is a socket of this network namespace that is connected, or being so.
type connection struct {
	to    netip.Addr
	inode uint32
}

// connectedTo asks the kernel for the connections to addresses. It is the kernel
// that looks through them.
func connectedTo(to netip.Prefix) (found []connection, err error) {
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.AddData(diagRequest(to))
	messages, err := request.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return nil, fmt.Errorf("list connections to %s: %w", to, err)
	}
	for _, m := range messages {
		if len(m) >= diagMessageSize {
			ip, _ := netip.AddrFromSlice(m[diagPeer : diagPeer+4])
			found = append(found, connection{to: ip, inode: binary.NativeEndian.Uint32(m[diagInode:])})
		}
	}
	return found, nil
}

// diagRequest is a request with a filter of one condition.
type diagRequest netip.Prefix

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
	b = append(b, unix.AF_INET, byte(netip.Prefix(d).Bits()), 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // any port
	address := netip.Prefix(d).Addr().As4()
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
