package registry

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestTheConformanceSuitePasses runs the program of the OCI distribution-spec's own
// conformance suite, which GANTRY_OCI_SUITE names (make conformance-oci SUITE=path).
// What it checks, conformance_test.go checks in `make test`.
func TestTheConformanceSuitePasses(t *testing.T) {
	suite := os.Getenv("GANTRY_OCI_SUITE")
	if suite == "" {
		t.Skip("GANTRY_OCI_SUITE does not name the suite's program: see `make conformance-oci`")
	}
	reg := serve(t, Config{DataDir: t.TempDir()})
	results := os.Getenv("GANTRY_OCI_RESULTS")
	if results == "" {
		results = t.TempDir()
	}
	cmd := exec.CommandContext(t.Context(), suite)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "OCI_REGISTRY="+reg.host, "OCI_TLS=disabled", "OCI_VERSION=1.1", "OCI_RESULTS_DIR="+results,
		// What the specification leaves to the registry is checked too.
		"OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_DIGEST_HEADER=true",
		"OCI_API_MANIFESTS_TAG_PARAM=true", "OCI_API_BLOBS_UPLOAD_CANCEL=true")
	out, err := cmd.CombinedOutput()
	blob, readErr := os.ReadFile(filepath.Join(results, "junit.xml"))
	if readErr != nil {
		t.Fatalf("the suite left no results: %v\n%s", err, out)
	}
	var suites struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Skipped  int `xml:"skipped,attr"`
		Disabled int `xml:"disabled,attr"`
	}
	must(t, xml.Unmarshal(blob, &suites))
	t.Logf("%+v", suites)
	if suites.Tests < 600 {
		t.Errorf("the suite ran only %d tests", suites.Tests)
	}
	if err != nil || suites.Failures+suites.Errors+suites.Skipped > 0 {
		t.Errorf("the suite failed: %v\n%s", err, out)
	}
}
