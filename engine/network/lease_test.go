package network

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestAddressesTakeTurns(t *testing.T) {
	dir := t.TempDir()
	cidr := netip.MustParsePrefix("10.9.0.0/24")
	l, err := openLeases(dir, cidr, everyLease, nil)
	must(t, err)
	seen := map[netip.Addr]bool{}
	for i := range 253 { // every address but network, gateway and broadcast
		uid := fmt.Sprint("u", i)
		le, err := assignNext(l, lease{UID: uid, Namespace: "ns"})
		must(t, err)
		if seen[le.IP] {
			t.Fatalf("%s was reused although others are free", le.IP)
		}
		seen[le.IP] = true
		if i > 0 {
			must(t, l.release(uid))
			l.free(le.IP)
		}
	}
	for _, never := range []string{"10.9.0.0", "10.9.0.1", "10.9.0.255"} {
		if seen[netip.MustParseAddr(never)] {
			t.Errorf("%s was given to a pod", never)
		}
	}
	// The next turn passes over what is still in use.
	le, err := assignNext(l, lease{UID: "again", Namespace: "ns"})
	if err != nil || le.IP != netip.MustParseAddr("10.9.0.3") {
		t.Errorf("got %v, %v", le.IP, err)
	}

	// The next process knows what is in use and goes on behind it.
	l, err = openLeases(dir, cidr, everyLease, nil)
	must(t, err)
	kept, ok := l.get("u0")
	if !ok || kept.IP != netip.MustParseAddr("10.9.0.2") {
		t.Errorf("kept %+v", kept)
	}
	if le, err := assignNext(l, lease{UID: "new"}); err != nil || le.IP != netip.MustParseAddr("10.9.0.4") {
		t.Errorf("got %v, %v", le.IP, err)
	}
}

func TestFullRangeIsRefused(t *testing.T) {
	l, err := openLeases(t.TempDir(), netip.MustParsePrefix("10.9.0.0/29"), everyLease, nil)
	must(t, err)
	for i := range 5 {
		_, err := assignNext(l, lease{UID: fmt.Sprint("u", i)})
		must(t, err)
	}
	_, err = assignNext(l, lease{UID: "late"})
	if err == nil || !strings.Contains(err.Error(), "all 5") {
		t.Fatalf("got %v", err)
	}
	le, _ := l.get("u3")
	must(t, l.release("u3"))
	l.free(le.IP)
	if _, err := assignNext(l, lease{UID: "late"}); err != nil {
		t.Fatal(err)
	}
}

func everyLease(lease) bool { return true }

// assignNext gives the pod the next free address.
func assignNext(l *leases, le lease) (lease, error) {
	ip, err := l.reserve()
	if err != nil {
		return lease{}, err
	}
	le.berth = newBerth(ip)
	return le, l.assign(le)
}
