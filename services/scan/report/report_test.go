package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	spdxjson "github.com/spdx/tools-golang/json"

	"github.com/gantryhq/gantry/services/scan/osvdb"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The forms of one report are golden files: what a person or a program reads changes
// only on purpose.
func TestFormsOfAReport(t *testing.T) {
	r := example()
	for name, write := range map[string]func(io.Writer) error{
		"table.txt":  func(w io.Writer) error { return r.WriteTable(w, TableOptions{}) },
		"severe.txt": func(w io.Writer) error { return r.WriteTable(w, TableOptions{AtLeast: osvdb.High, Color: true}) },
		"nothing.txt": func(w io.Writer) error {
			return (&Report{Target: "shop/cart", Digest: r.Digest, Database: r.Database}).WriteTable(w, TableOptions{})
		},
		"unknown.txt": func(w io.Writer) error {
			return (&Report{Target: "shop/cart", Digest: r.Digest}).WriteTable(w, TableOptions{})
		},
		"sarif.json":     r.WriteSARIF,
		"spdx.json":      r.WriteSPDX,
		"cyclonedx.json": r.WriteCycloneDX,
		"report.json":    r.WriteJSON,
	} {
		var got bytes.Buffer
		must(t, write(&got))
		golden := filepath.Join("testdata", name)
		if *update {
			must(t, os.WriteFile(golden, got.Bytes(), 0o644))
		}
		want, err := os.ReadFile(golden)
		must(t, err)
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s is now\n%s", name, got.String())
		}
	}
}

// What is written is read by the libraries of those who defined the forms.
func TestDocumentsAreUnderstood(t *testing.T) {
	r := example()
	var text bytes.Buffer
	must(t, r.WriteSPDX(&text))
	doc, err := spdxjson.Read(&text)
	must(t, err)
	if len(doc.Packages) != 1+len(r.Packages) || doc.Packages[1].PackageExternalReferences[0].Locator != r.Packages[0].PURL {
		t.Errorf("SPDX has %d packages", len(doc.Packages))
	}
	text.Reset()
	must(t, r.WriteCycloneDX(&text))
	bom := &cyclonedx.BOM{}
	must(t, cyclonedx.NewBOMDecoder(&text, cyclonedx.BOMFileFormatJSON).Decode(bom))
	if len(*bom.Components) != len(r.Packages) || len(*bom.Vulnerabilities) != 3 {
		t.Errorf("CycloneDX has %d components, %d vulnerabilities", len(*bom.Components), len(*bom.Vulnerabilities))
	}
	refs := map[string]bool{}
	for _, c := range *bom.Components {
		refs[c.BOMRef] = true
	}
	for _, v := range *bom.Vulnerabilities {
		for _, a := range *v.Affects {
			if !refs[a.Ref] {
				t.Errorf("%s affects %q, which is no component", v.ID, a.Ref)
			}
		}
	}
	text.Reset()
	must(t, r.WriteJSON(&text))
	var back Report
	must(t, json.Unmarshal(text.Bytes(), &back))
	var again bytes.Buffer
	must(t, back.WriteTable(&again, TableOptions{}))
	want, err := os.ReadFile("testdata/table.txt")
	must(t, err)
	if again.String() != string(want) {
		t.Errorf("the report read back is another one:\n%s", again.String())
	}
}

func TestTheWorstDecides(t *testing.T) {
	r := example()
	if worst, any := r.Worst(); worst != osvdb.Critical || !any {
		t.Errorf("worst %v, %v", worst, any)
	}
	r.Vulnerabilities = nil
	if worst, _ := r.Worst(); worst != osvdb.High {
		t.Errorf("worst of the faults %v", worst)
	}
	if _, any := (&Report{}).Worst(); any {
		t.Error("a clean report has something bad")
	}
	if s := example().Summary(); s.Critical != 1 || s.High != 1 || s.Medium != 0 || s.Low != 2 || s.Fixable != 3 || s.Secrets != 1 || s.Faults != 5 {
		t.Errorf("summary %+v", s)
	}
	for name, want := range map[string]osvdb.Severity{"HIGH": osvdb.High, "negligible": osvdb.Negligible} {
		if got, err := osvdb.ParseSeverity(name); err != nil || got != want {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
	if _, err := osvdb.ParseSeverity("severe"); err == nil {
		t.Error("a severity that is none was read")
	}
}

func example() *Report {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	first, second := 0, 1
	pkg := func(name, version, purl, path string, layer int) Package {
		return Package{Name: name, Version: version, Ecosystem: "Debian:12", PURL: purl, Path: path, Layer: layer}
	}
	const status = "var/lib/dpkg/status"
	ssl := pkg("libssl3", "3.0.9-1", "pkg:deb/debian/libssl3@3.0.9-1?arch=amd64&distro=bookworm&source=openssl", status, 0)
	libc := pkg("libc6", "2.36-9", "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=bookworm&source=glibc", status, 0)
	left := pkg("left-pad", "1.2.0", "pkg:npm/left-pad@1.2.0", "app/node_modules/left-pad/package.json", 1)
	left.Ecosystem, left.Licenses = "npm", []string{"WTFPL"}
	vuln := func(p Package, id string, s osvdb.Severity, score float64, fixed, summary string) Vulnerability {
		return Vulnerability{ID: id, Aliases: []string{"X-" + id}, Severity: s, Score: score, Summary: summary, Package: p.Name, Installed: p.Version,
			Fixed: fixed, Ecosystem: p.Ecosystem, PURL: p.PURL, Path: p.Path, Layer: p.Layer, URL: "https://osv.dev/vulnerability/" + id}
	}
	r := &Report{
		Target: "127.0.0.1:5000/shop/cart:1", Digest: "sha256:" + strings.Repeat("ab", 32), Platform: "linux/amd64", OS: "Debian GNU/Linux 12 (bookworm)",
		Started: at, Finished: at.Add(time.Second),
		Database: &Database{Name: "127.0.0.1:5000/gantry-system/osv-db:latest", Digest: "sha256:" + strings.Repeat("cd", 32), Records: 3, Newest: at.Add(-time.Hour)},
		Layers:   []Layer{{Digest: "sha256:" + strings.Repeat("01", 32), CreatedBy: "gantry base"}, {Digest: "sha256:" + strings.Repeat("02", 32), CreatedBy: "COPY . /app"}},
		Packages: []Package{ssl, libc, left},
		Vulnerabilities: []Vulnerability{
			vuln(ssl, "CVE-2026-1", osvdb.Critical, 9.8, "3.0.11-1", "A flaw in openssl that is described at so great a length that a table cannot show it"),
			vuln(libc, "CVE-2026-2", osvdb.Low, 2.1, "2.36-10", "One"), vuln(libc, "CVE-2026-3", osvdb.Low, 3, "2.36-10", "Two"),
			vuln(left, "CVE-2026-1", osvdb.High, 0, "", "Padding"),
		},
		Faults: []Fault{
			{Rule: RuleSecret, Severity: osvdb.High, Message: "a private key is in the image", Fix: "revoke it", Path: "app/key.pem", Line: 3, Layer: &second},
			{Rule: "root-user", Severity: osvdb.Medium, Message: "the image's program runs as root", Fix: "add USER"},
			{Rule: "setuid", Severity: osvdb.Negligible, Message: "setuid", Path: "usr/bin/su", Layer: &first},
			{Rule: "setuid", Severity: osvdb.Negligible, Message: "setuid", Path: "usr/bin/mount", Layer: &first},
			{Rule: "setuid", Severity: osvdb.Negligible, Message: "setuid", Path: "usr/bin/a b", Layer: &first},
		},
		Notes: []string{"big.jar was not looked at: it has more than 1024 MB"},
	}
	r.Sort()
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
