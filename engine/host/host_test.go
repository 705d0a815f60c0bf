package host

import (
	"path/filepath"
	"testing"
)

func TestEveryFailedCheckNamesItsRemedy(t *testing.T) {
	for _, c := range checks {
		ok, detail, remedy := c.look(t.TempDir())
		if detail == "" {
			t.Errorf("%s says nothing of what it found", c.name)
		}
		if !ok && remedy == "" {
			t.Errorf("%s failed (%s) without a remedy", c.name, detail)
		}
	}
}

func TestDiskLooksWhereTheDataWillBe(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "not", "yet", "there")
	_, detail, _ := disk(missing)
	if detail == "" {
		t.Fatal("no detail")
	}
	if _, before, _ := disk("/"); before == "" {
		t.Fatal("no remedy for a full disk")
	}
}

func TestCheckKeepsNoRemedyForWhatIsWell(t *testing.T) {
	for _, r := range Check(t.TempDir()) {
		if r.OK && r.Remedy != "" {
			t.Errorf("%s is well and still says %q", r.Name, r.Remedy)
		}
	}
}
