package pki

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const year = 365 * 24 * time.Hour

// at opens the authority in dir as if it were some time later.
func at(t *testing.T, dir string, later time.Duration) *Authority {
	t.Helper()
	a, err := Open(dir, func() time.Time { return time.Now().Add(later) })
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func clientCertificate(t *testing.T, a *Authority) *x509.Certificate {
	t.Helper()
	raw, _, _, err := a.ClientCertificate("alice", []string{"team"})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func trusts(a *Authority, cert *x509.Certificate) bool {
	_, err := cert.Verify(x509.VerifyOptions{Roots: a.Pool(), CurrentTime: a.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil
}

func TestTheAuthorityIsKeptAndReplacedInTime(t *testing.T) {
	dir := t.TempDir()
	first := at(t, dir, 0)
	cert := clientCertificate(t, first)
	if cert.Subject.CommonName != "alice" || len(cert.Subject.Organization) != 1 {
		t.Errorf("certificate of %v", cert.Subject)
	}
	if again := at(t, dir, time.Hour); string(again.Bundle()) != string(first.Bundle()) || !trusts(again, cert) {
		t.Error("a restart made another authority")
	}
	almost := at(t, dir, 8*year-30*24*time.Hour)
	old := clientCertificate(t, almost)
	renewed := at(t, dir, 8*year+24*time.Hour)
	if renewed.cert.Equal(almost.cert) {
		t.Error("the authority is not replaced two years before its end")
	}
	if !trusts(renewed, old) || !trusts(renewed, clientCertificate(t, renewed)) {
		t.Error("what was issued before or after the change is not trusted")
	}
	if n := strings.Count(string(at(t, dir, 11*year).Bundle()), "BEGIN"); n != 1 {
		t.Errorf("%d authorities are trusted after the first one's end", n)
	}
}

func TestTheServingCertificateIsAlwaysFresh(t *testing.T) {
	now := time.Now()
	a, err := Open(t.TempDir(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	a.ServeAs([]string{"kubernetes", "10.96.0.1"})
	first, err := a.ServingCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kubernetes", "10.96.0.1"} {
		if err := first.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if same, _ := a.ServingCertificate(nil); same != first {
		t.Error("every handshake has a certificate of its own")
	}
	now = now.Add(300 * 24 * time.Hour)
	if next, err := a.ServingCertificate(nil); err != nil || next == first || next.Leaf.NotAfter.Sub(now) < 300*24*time.Hour {
		t.Errorf("not renewed: %v", err)
	}
}

func TestAClockThatIsSetBackDoesNoHarm(t *testing.T) {
	dir := t.TempDir()
	now := time.Now().Add(9 * year) // at the first start, as without a battery
	a, err := Open(dir, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	a.ServeAs([]string{"kubernetes"})
	if _, err := a.ServingCertificate(nil); err != nil {
		t.Fatal(err)
	}
	now = time.Now()
	cert, err := a.ServingCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), DNSName: "kubernetes"}); err != nil {
		t.Errorf("in the same process: %v", err)
	}
	if again := at(t, dir, 0); !trusts(again, clientCertificate(t, again)) {
		t.Error("after a restart clients are not trusted")
	}
}

func TestDamagedFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	at(t, dir, 0)
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), "restore the file from a backup") {
		t.Errorf("got %v", err)
	}
}
