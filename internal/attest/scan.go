package attest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Scan is the predicate of type [VulnerabilityPredicate], in the form that cosign defines
// (https://github.com/sigstore/cosign/blob/main/specs/COSIGN_VULN_ATTESTATION_SPEC.md).
type Scan struct {
	Invocation ScanInvocation `json:"invocation"`
	Scanner    Scanner        `json:"scanner"`
	Metadata   ScanMetadata   `json:"metadata"`
}

// ScanInvocation is how the scanner was started. cosign demands the fields.
type ScanInvocation struct {
	Parameters any    `json:"parameters"`
	URI        string `json:"uri"`
	EventID    string `json:"event_id"`
	BuilderID  string `json:"builder.id"`
}

// Scanner is who scanned, against what, and what it found.
type Scanner struct {
	URI     string          `json:"uri"`
	Version string          `json:"version"`
	DB      ScanDB          `json:"db"`
	Result  json.RawMessage `json:"result"` // an object; its field "summary" is a [Severities]
}

// ScanDB is the database of known vulnerabilities.
type ScanDB struct {
	URI     string `json:"uri"`
	Version string `json:"version"`
}

// ScanMetadata is when the scan took place.
type ScanMetadata struct {
	Started  time.Time `json:"scanStartedOn"`
	Finished time.Time `json:"scanFinishedOn"`
}

// Severities is how many vulnerabilities of each severity a scan found, and credentials.
type Severities struct {
	Critical int `json:"critical"`
	High     int `json:"high"`
	Medium   int `json:"medium"`
	Low      int `json:"low"`
	Unknown  int `json:"unknown"` // without a severity
	Secrets  int `json:"secrets"` // credentials that are in the image
}

// add counts one finding, whose severity may be written in any case.
func (s *Severities) add(severity string) {
	switch strings.ToLower(severity) {
	case "critical":
		s.Critical++
	case "high":
		s.High++
	case "medium", "moderate":
		s.Medium++
	case "low", "negligible":
		s.Low++
	default:
		s.Unknown++
	}
}

// ParseScan reads the predicate of a scan and counts its findings: from the summary of the
// result, or from the report of Trivy, which writes such predicates itself.
func ParseScan(predicate json.RawMessage) (*Scan, Severities, error) {
	var scan Scan
	if err := json.Unmarshal(predicate, &scan); err != nil {
		return nil, Severities{}, fmt.Errorf("read scan result: %w", err)
	}
	if scan.Metadata.Finished.IsZero() {
		return nil, Severities{}, errors.New("read scan result: it does not say when the scan finished")
	}
	var result struct {
		Summary *Severities `json:"summary"`
		// Trivy's report.
		SchemaVersion int
		Results       []struct {
			Vulnerabilities []struct{ Severity string }
			Secrets         []struct{}
		}
	}
	if err := json.Unmarshal(scan.Scanner.Result, &result); err != nil {
		return nil, Severities{}, fmt.Errorf("read scan result: %w", err)
	}
	if result.Summary != nil {
		return &scan, *result.Summary, nil
	}
	if result.SchemaVersion == 0 {
		return nil, Severities{}, errors.New("read scan result: it has neither a summary nor the form of Trivy's report")
	}
	var found Severities
	for _, r := range result.Results {
		for _, v := range r.Vulnerabilities {
			found.add(v.Severity)
		}
		found.Secrets += len(r.Secrets)
	}
	return &scan, found, nil
}
