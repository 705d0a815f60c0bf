// Package nat keeps one nftables table that turns service addresses into pod
// addresses and enforces network policies.
//
// The table's maps are shared by all services, and only a service with session
// affinity has chains and sets of its own. "services" leads a frontend (address,
// protocol, port) to a chain that only depends on how many backends it has; that chain
// draws a number below the count and finds the backend in "slots". So traffic is spread
// evenly over any number of backends, and a change touches only the map elements that
// differ, in one transaction, whether there is one service or thousands.
//
// A frontend without an address stands for every address of the host. A frontend
// without backends refuses connections instead of letting them time out. A pod's packets
// pass only with the address that is the pod's own.
//
// Guarantees: every change is atomic for packets; established connections keep their
// backend; the table is the only thing this package touches. A [Table] is safe for
// concurrent use. Only engine/network imports this package.
package nat

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	corev1 "k8s.io/api/core/v1"

	"github.com/gantryhq/gantry/engine/network/policy"
)

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols of services.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// ProtocolOf returns the number of an API protocol; "" is TCP.
func ProtocolOf(p corev1.Protocol) (Protocol, error) {
	switch p {
	case corev1.ProtocolTCP, "":
		return TCP, nil
	case corev1.ProtocolUDP:
		return UDP, nil
	case corev1.ProtocolSCTP:
		return SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q cannot be translated: use TCP, UDP or SCTP", p)
}

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Frontend is where clients connect to. The zero Addr is every address of the host.
type Frontend struct {
	Addr     netip.Addr
	Protocol Protocol
	Port     uint16
}

func (f Frontend) String() string {
	addr := "host"
	if f.Addr.IsValid() {
		addr = f.Addr.String()
	}
	return fmt.Sprintf("%s:%d/%s", addr, f.Port, f.Protocol)
}

// Target is where a frontend leads.
type Target struct {
	Backends []netip.AddrPort // none: refuse
	Affinity time.Duration    // how long a client keeps its backend; 0 is not at all
	// Sources, when not empty, are the only clients admitted; others are ignored.
	Sources []netip.Prefix
}

// Config is what the fixed rules of a table need.
type Config struct {
	Name        string // of the table
	Bridge      string // interface of the pods
	PodCIDR     netip.Prefix
	ServiceCIDR netip.Prefix
	DNS         netip.Addr // inside ServiceCIDR, served by this host itself
}

// Table is the nftables table of one instance.
type Table struct {
	cfg Config

	mu        sync.Mutex // guards following
	conn      *nftables.Conn
	live      bool // the kernel holds what desired says
	desired   map[Frontend]Target
	owners    map[netip.Addr]net.HardwareAddr // desired
	installed map[Frontend]*installed
	hairpins  map[netip.Addr]int // number of frontends' backends per address
	policy    policy.Ruleset     // desired
	enforced  policy.Ruleset     // installed
	layout    *layout
}

// installed is a frontend as the kernel has it. The index of a backend is its slot.
type installed struct {
	backends []netip.AddrPort
	affinity time.Duration
	chain    string // "" when refused
	sources  []netip.Prefix
}

// Open returns the table. It leaves a table of that name from an earlier process at
// work, unchanged, until the first call of Replace: a restart interrupts no traffic.
func Open(cfg Config) (*Table, error) {
	t := &Table{cfg: cfg, desired: map[Frontend]Target{}, owners: map[netip.Addr]net.HardwareAddr{}}
	if err := t.dial(); err != nil {
		return nil, err
	}
	exists, err := t.exists()
	if err != nil {
		return nil, err
	}
	if !exists {
		return t, t.Replace(nil)
	}
	return t, nil
}

// dial opens a fresh connection, dropping whatever the former one had pending.
func (t *Table) dial() error {
	if t.conn != nil {
		_ = t.conn.CloseLasting()
	}
	// A whole ruleset is one message to the kernel, and all its answers arrive
	// before the first is read.
	buffers := func(c *netlink.Conn) error {
		const size = 32 << 20
		return errors.Join(c.SetWriteBuffer(size), c.SetReadBuffer(size))
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(buffers))
	if err != nil {
		return fmt.Errorf("connect to nftables: %w", err)
	}
	t.conn = conn
	return nil
}

func (t *Table) exists() (bool, error) {
	tables, err := t.conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, have := range tables {
		if have.Name == t.cfg.Name {
			return true, nil
		}
	}
	return false, nil
}

// Close ends the connection to the kernel. The table stays.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conn.CloseLasting()
}

// Delete removes the table of this name. A missing one is no error.
func Delete(name string) error {
	t := &Table{cfg: Config{Name: name}}
	if err := t.dial(); err != nil {
		return err
	}
	defer t.Close()
	exists, err := t.exists()
	if err != nil || !exists {
		return err
	}
	t.conn.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name})
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	return nil
}

// Exists reports whether the kernel has a table of this name.
func Exists(name string) (bool, error) {
	t := &Table{cfg: Config{Name: name}}
	if err := t.dial(); err != nil {
		return false, err
	}
	defer t.Close()
	return t.exists()
}

// Replace makes the kernel's table hold exactly the given frontends, in one
// transaction, whatever it held before.
func (t *Table) Replace(all map[Frontend]Target) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.desired = map[Frontend]Target{}
	for f, target := range all {
		t.desired[f] = target
	}
	return t.rebuild()
}

// Apply changes the given frontends in one transaction and leaves all others alone. A
// nil target removes the frontend. Before the first Replace it has no effect beyond
// the error.
func (t *Table) Apply(changes map[Frontend]*Target) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for f, target := range changes {
		if target == nil {
			delete(t.desired, f)
		} else {
			t.desired[f] = *target
		}
	}
	if !t.live {
		return t.rebuild()
	}
	tx := t.begin()
	for f, target := range changes {
		if err := tx.set(f, target); err != nil {
			return t.heal(err)
		}
	}
	if err := tx.commit(); err != nil {
		return t.heal(err)
	}
	return nil
}

// heal follows a failed transaction, after which neither the connection nor our
// knowledge of the kernel's state can be trusted: somebody may have deleted the table.
func (t *Table) heal(cause error) error {
	if err := t.rebuild(); err != nil {
		return errors.Join(fmt.Errorf("change nftables table %s: %w", t.cfg.Name, cause), err)
	}
	return nil
}

// turns is how many rebuilds go by until the priorities of the base chains begin anew.
const turns = 90

// nextTurn makes the base chains of a new table follow those of the table it replaces.
// At equal priority the kernel puts them first, and a packet that passes through the hook
// at the moment of the exchange would find the new chain not in force yet, and then the
// old one no longer.
func (t *Table) nextTurn() (int32, error) {
	chains, err := t.conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return 0, fmt.Errorf("list nftables chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name == t.cfg.Name && c.Name == "prerouting" && c.Priority != nil {
			return (int32(*c.Priority-*nftables.ChainPriorityNATDest) + 1) % turns, nil
		}
	}
	return 0, nil
}

// rebuild replaces the kernel's table by the desired state.
func (t *Table) rebuild() error {
	t.live = false
	if err := t.dial(); err != nil {
		return err
	}
	clients, err := t.remembered()
	if err != nil {
		return err
	}
	turn, err := t.nextTurn()
	if err != nil {
		return err
	}
	t.installed, t.hairpins, t.enforced = map[Frontend]*installed{}, map[netip.Addr]int{}, policy.Ruleset{}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: t.cfg.Name}
	// Adding before deleting makes the deletion succeed in either case.
	t.conn.AddTable(table)
	t.conn.DelTable(table)
	if t.layout, err = addLayout(t.conn, t.cfg, turn); err != nil {
		return fmt.Errorf("lay out nftables table %s: %w", t.cfg.Name, err)
	}
	tx := t.begin()
	for f, target := range t.desired {
		if err := tx.set(f, &target); err != nil {
			return fmt.Errorf("fill nftables table %s: %w", t.cfg.Name, err)
		}
	}
	for ip, mac := range t.owners {
		tx.insert(t.layout.owners, ownerElement(ip, mac))
	}
	tx.keep(clients)
	if err := tx.setPolicy(t.policy); err != nil {
		return fmt.Errorf("fill nftables table %s: %w", t.cfg.Name, err)
	}
	if err := tx.commit(); err != nil {
		return fmt.Errorf("replace nftables table %s: %w", t.cfg.Name, err)
	}
	t.live = true
	if err := sendRules(t.cfg.Name, t.layout.trafficRules(t.cfg)); err != nil {
		slog.Warn("traffic between services is not counted", "err", err)
	}
	return nil
}
