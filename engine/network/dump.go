package network

import (
	"errors"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dump repeats a listing that a simultaneous change interrupted, as happens while pods
// come and go.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	const attempts = 20
	for i := 1; ; i++ {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || i == attempts {
			return all, err
		}
	}
}

func listLinks() ([]netlink.Link, error) { return dump(netlink.LinkList) }

// listAddrs lists the IPv4 addresses of the host.
func listAddrs() ([]netlink.Addr, error) {
	return dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
}

// listRoutes lists the IPv4 routes of the main table.
func listRoutes() ([]netlink.Route, error) {
	return dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
}
