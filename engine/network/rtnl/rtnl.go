// Package rtnl sends batches of rtnetlink requests: several changes to links,
// addresses, routes and neighbours in one system call, with all answers awaited.
//
// Creating a pod's interface pair with the peer already in the pod's network
// namespace and the host end already on the bridge is one request here; the
// usual create, then move, then enslave costs more than ten times as much because
// each step waits for the kernel's RCU grace periods.
//
// A [Socket] belongs to the network namespace in which its thread was when it
// was opened, and may be used from any thread afterwards. It is not safe for
// concurrent use. Only engine/network imports this package.
package rtnl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Socket is a route netlink socket of one network namespace.
type Socket struct {
	fd  int
	seq uint32
	buf []byte
}

// Open opens a socket in the calling thread's network namespace.
func Open() (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind route netlink socket: %w", err)
	}
	// Best effort: without it the answers repeat the whole request.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &Socket{fd: fd, buf: make([]byte, 16<<10)}, nil
}

// Close closes the socket.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// Request is one change, built by the functions of this package.
type Request struct {
	what   string
	req    *nl.NetlinkRequest
	ignore []syscall.Errno
}

// Ignoring makes the batch treat the given errors of this request as success.
func (r Request) Ignoring(errs ...syscall.Errno) Request {
	r.ignore = append(r.ignore, errs...)
	return r
}

// Do sends all requests in one system call and waits until all are done. The kernel
// carries on after a request that failed; Do returns all failures joined.
func (s *Socket) Do(requests ...Request) error {
	var out []byte
	first := s.seq + 1
	for i, r := range requests {
		s.seq++
		r.req.Seq = s.seq
		// The kernel works in order and reports failures in any case, so the answer
		// to the last request stands for all.
		if i == len(requests)-1 {
			r.req.Flags |= unix.NLM_F_ACK
		}
		out = append(out, r.req.Serialize()...)
	}
	if err := unix.Sendto(s.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send route netlink batch: %w", err)
	}
	var errs []error
	for last := false; !last; {
		n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive route netlink answers: %w", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(s.buf[:n])
		if err != nil {
			return fmt.Errorf("parse route netlink answers: %w", err)
		}
		for _, m := range msgs {
			i := m.Header.Seq - first
			if m.Header.Type != unix.NLMSG_ERROR || i >= uint32(len(requests)) {
				continue
			}
			last = last || i == uint32(len(requests))-1
			if err := requests[i].result(m.Data); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func (r Request) result(answer []byte) error {
	code := int32(nl.NativeEndian().Uint32(answer[:4]))
	if code == 0 {
		return nil
	}
	errno := syscall.Errno(-code)
	for _, e := range r.ignore {
		if errno == e {
			return nil
		}
	}
	return fmt.Errorf("%s: %w", r.what, errno)
}

const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL

// AddVeth creates the pair (name, peer): name is a port of the bridge with index
// master; peer is in the namespace behind netns, with the hardware address mac. Both
// are down: what else is set before they are raised, the kernel need not change then.
func AddVeth(name string, master int, peer string, netns int, mac net.HardwareAddr, mtu int) Request {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, create)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))))
	// One queue each: the default is one per possible processor, whose memory
	// nobody uses.
	req.AddData(nl.NewRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(1)))
	req.AddData(nl.NewRtAttr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(1)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	p := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	p.AddChild(nl.NewIfInfomsg(unix.AF_UNSPEC))
	p.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(peer))
	p.AddRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(1))
	p.AddRtAttr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(1))
	p.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))
	p.AddRtAttr(unix.IFLA_ADDRESS, []byte(mac))
	p.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(netns)))
	req.AddData(info)
	return Request{what: "create interface pair " + name, req: req}
}

// Port is how a bridge treats one of its ports.
type Port struct {
	Hairpin  bool // a frame may go back to where it came from
	Isolated bool // no frames from and to other isolated ports
}

// SetPort configures the bridge port with this name.
func SetPort(name string, p Port) Request {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil)
	data.AddRtAttr(nl.IFLA_BRPORT_MODE, flag(p.Hairpin))
	data.AddRtAttr(nl.IFLA_BRPORT_ISOLATED, flag(p.Isolated))
	req.AddData(info)
	return Request{what: "configure bridge port " + name, req: req}
}

func flag(set bool) []byte {
	if set {
		return []byte{1}
	}
	return []byte{0}
}

// LockPort makes the bridge port accept frames from no hardware address but those that
// SetForwarding has put behind it. Kernels before 5.18 ignore it.
func LockPort(name string) Request {
	const brportLocked = 43 // IFLA_BRPORT_LOCKED of linux/if_link.h
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil)
	data.AddRtAttr(nl.IFLA_BRPORT_LEARNING, flag(false))
	data.AddRtAttr(brportLocked, flag(true))
	req.AddData(info)
	return Request{what: "lock bridge port " + name, req: req}
}

// SetForwarding puts a hardware address behind the bridge port with this index for good.
func SetForwarding(index int, mac net.HardwareAddr) Request {
	req := nl.NewNetlinkRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	msg := neighMsg(index, unix.NUD_NOARP|unix.NUD_REACHABLE)
	msg[0], msg[10] = unix.AF_BRIDGE, unix.NTF_MASTER
	req.AddRawData(msg)
	req.AddRawData(nl.NewRtAttr(unix.NDA_LLADDR, mac).Serialize())
	return Request{what: "add forwarding entry " + mac.String(), req: req}
}

// SetNoIPv6 has the kernel make no IPv6 address for the link with this name when it is
// raised. Nobody speaks it at a bridge port, and each such address brings routes
// that every later change of a link goes through. Kernels without IPv6 refuse it with
// EAFNOSUPPORT.
func SetNoIPv6(name string) Request {
	const (
		addrGenMode = 8 // IFLA_INET6_ADDR_GEN_MODE of linux/if_link.h
		none        = 1 // IN6_ADDR_GEN_MODE_NONE
	)
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	families := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	families.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(addrGenMode, []byte{none})
	req.AddData(families)
	return Request{what: "set link " + name + " to have no IPv6 address", req: req}
}

// Raise raises the link with this name.
func Raise(name string) Request {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return Request{what: "raise link " + name, req: req}
}

// SetUp raises the link with this index.
func SetUp(index int) Request {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	return Request{what: fmt.Sprintf("raise link %d", index), req: req}
}

// DelLink deletes the link with this name.
func DelLink(name string) Request {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return Request{what: "delete link " + name, req: req}
}

// AddAddr gives the link an address. An address of host scope is never chosen as
// the source of traffic that leaves the machine.
func AddAddr(index int, addr netip.Prefix, scope uint8) Request {
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, create)
	msg := nl.NewIfAddrmsg(unix.AF_INET)
	msg.Index = uint32(index)
	msg.Prefixlen = uint8(addr.Bits())
	msg.Scope = scope
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, addr.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, addr.Addr().AsSlice()))
	return Request{what: "add address " + addr.String(), req: req}
}

// Route is a unicast route of the main table. The zero Gateway means on-link, the
// zero Source lets the kernel choose.
type Route struct {
	Dst     netip.Prefix
	Index   int
	Gateway netip.Addr
	Source  netip.Addr
}

// AddRoute adds a route.
func AddRoute(r Route) Request {
	req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, create)
	msg := nl.NewRtMsg()
	msg.Family = unix.AF_INET
	msg.Dst_len = uint8(r.Dst.Bits())
	msg.Scope = unix.RT_SCOPE_LINK
	if r.Gateway.IsValid() {
		msg.Scope = unix.RT_SCOPE_UNIVERSE
	}
	req.AddData(msg)
	if r.Dst.Bits() > 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_DST, r.Dst.Addr().AsSlice()))
	}
	if r.Gateway.IsValid() {
		req.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, r.Gateway.AsSlice()))
	}
	if r.Source.IsValid() {
		req.AddData(nl.NewRtAttr(unix.RTA_PREFSRC, r.Source.AsSlice()))
	}
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(r.Index))))
	return Request{what: "add route to " + r.Dst.String(), req: req}
}

// neighMsg is struct ndmsg of linux/neighbour.h.
func neighMsg(index int, state uint16) []byte {
	m := make([]byte, 12)
	m[0] = unix.AF_INET
	nl.NativeEndian().PutUint32(m[4:], uint32(index))
	nl.NativeEndian().PutUint16(m[8:], state)
	return m
}

// SetNeigh makes the hardware address of a neighbour known for good.
func SetNeigh(index int, addr netip.Addr, mac net.HardwareAddr) Request {
	req := nl.NewNetlinkRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	req.AddRawData(neighMsg(index, unix.NUD_PERMANENT))
	req.AddRawData(nl.NewRtAttr(unix.NDA_DST, addr.AsSlice()).Serialize())
	req.AddRawData(nl.NewRtAttr(unix.NDA_LLADDR, mac).Serialize())
	return Request{what: "add neighbour " + addr.String(), req: req}
}

// DelNeigh forgets a neighbour.
func DelNeigh(index int, addr netip.Addr) Request {
	req := nl.NewNetlinkRequest(unix.RTM_DELNEIGH, 0)
	req.AddRawData(neighMsg(index, 0))
	req.AddRawData(nl.NewRtAttr(unix.NDA_DST, addr.AsSlice()).Serialize())
	return Request{what: "delete neighbour " + addr.String(), req: req}
}

// PortForwarding reports whether the named link is a bridge port that forwards, and its
// index.
func (s *Socket) PortForwarding(name string) (index int, forwards bool, err error) {
	const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h
	s.seq++
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.Seq = s.seq
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	if err := unix.Sendto(s.fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, false, fmt.Errorf("ask for link %s: %w", name, err)
	}
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, false, fmt.Errorf("receive link %s: %w", name, err)
		}
		msgs, err := syscall.ParseNetlinkMessage(s.buf[:n])
		if err != nil {
			return 0, false, fmt.Errorf("parse link %s: %w", name, err)
		}
		for _, m := range msgs {
			if m.Header.Seq != s.seq {
				continue
			}
			if m.Header.Type == unix.NLMSG_ERROR {
				return 0, false, Request{what: "ask for link " + name}.result(m.Data)
			}
			forwards, err := portForwarding(m.Data[unix.SizeofIfInfomsg:])
			return int(nl.NativeEndian().Uint32(m.Data[4:])), forwards, err
		}
	}
}

// portForwarding finds IFLA_LINKINFO / IFLA_INFO_SLAVE_DATA / IFLA_BRPORT_STATE.
func portForwarding(attrs []byte) (bool, error) {
	const stateForwarding = 3 // BR_STATE_FORWARDING of linux/if_bridge.h
	for _, want := range []uint16{unix.IFLA_LINKINFO, nl.IFLA_INFO_SLAVE_DATA, nl.IFLA_BRPORT_STATE} {
		list, err := nl.ParseRouteAttr(attrs)
		if err != nil {
			return false, fmt.Errorf("parse bridge port: %w", err)
		}
		attrs = nil
		for _, a := range list {
			if a.Attr.Type&^unix.NLA_F_NESTED == want {
				attrs = a.Value
			}
		}
		if attrs == nil {
			return false, nil
		}
	}
	return len(attrs) > 0 && attrs[0] == stateForwarding, nil
}
