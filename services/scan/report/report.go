// Package report says what a scan found, and writes it in the forms people and
// programs read: a table, JSON, SARIF 2.1.0, SPDX 2.3 and CycloneDX 1.6.
//
// A [Report] is plain data that its JSON form keeps whole. It never holds a secret
// that was found, only what kind it is and where. Everything is in a fixed order, so
// that two scans of one image with one database give the same report but for the
// times. services/scan and cmd/gantry import it.
package report

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/gantryhq/gantry/services/scan/osvdb"
)

// Report is the result of one scan.
type Report struct {
	Target   string    `json:"target"`             // the image or file as it was named
	Digest   string    `json:"digest,omitempty"`   // of the image's manifest
	Platform string    `json:"platform,omitempty"` // linux/amd64
	OS       string    `json:"os,omitempty"`       // "Debian GNU/Linux 12 (bookworm)"
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`

	// Database is what vulnerabilities were looked up in, or nil when there was none:
	// then the absence of Vulnerabilities means nothing.
	Database *Database `json:"database"`

	Layers          []Layer         `json:"layers,omitempty"`
	Packages        []Package       `json:"packages,omitempty"`
	Vulnerabilities []Vulnerability `json:"vulnerabilities"`
	Faults          []Fault         `json:"faults"`
	Notes           []string        `json:"notes,omitempty"` // what could not be looked at
}

// Database identifies a vulnerability database.
type Database struct {
	Name    string    `json:"name"`
	Digest  string    `json:"digest"`
	Records int       `json:"records"`
	Newest  time.Time `json:"newest"` // change of its newest record
}

// Layer is one layer of the image, lowest first.
type Layer struct {
	Digest    string `json:"digest"`
	CreatedBy string `json:"createdBy,omitempty"`
}

// Package is one installed package.
type Package struct {
	Name          string   `json:"name"`
	Version       string   `json:"version"`
	Ecosystem     string   `json:"ecosystem,omitempty"` // as OSV names it: "Debian:12"
	Source        string   `json:"source,omitempty"`    // of a distribution's package, where it differs
	SourceVersion string   `json:"sourceVersion,omitempty"`
	PURL          string   `json:"purl,omitempty"`
	Path          string   `json:"path"`  // where it is recorded
	Layer         int      `json:"layer"` // index into Layers of the one that brought it
	Licenses      []string `json:"licenses,omitempty"`
}

// Vulnerability is one advisory that affects one installed package.
type Vulnerability struct {
	ID        string         `json:"id"` // the CVE where there is one, else the record's
	Aliases   []string       `json:"aliases,omitempty"`
	Severity  osvdb.Severity `json:"severity"`
	Score     float64        `json:"score,omitempty"` // CVSS base score
	Vector    string         `json:"vector,omitempty"`
	Summary   string         `json:"summary,omitempty"`
	Package   string         `json:"package"`
	Installed string         `json:"installed"`
	Fixed     string         `json:"fixed,omitempty"` // the first version without it
	Ecosystem string         `json:"ecosystem"`
	PURL      string         `json:"purl,omitempty"`
	Path      string         `json:"path"`
	Layer     int            `json:"layer"`
	URL       string         `json:"url"`
}

// Fault is anything else that is wrong with an image or a Dockerfile.
type Fault struct {
	Rule     string         `json:"rule"` // "secret", "root-user", or the name of BuildKit's rule
	Severity osvdb.Severity `json:"severity"`
	Message  string         `json:"message"`
	Fix      string         `json:"fix,omitempty"`
	Path     string         `json:"path,omitempty"`
	Line     int            `json:"line,omitempty"`  // from 1; 0 when there is none
	Layer    *int           `json:"layer,omitempty"` // index into Layers
	URL      string         `json:"url,omitempty"`
}

// Summary counts a report's findings.
type Summary struct {
	Critical   int `json:"critical"`
	High       int `json:"high"`
	Medium     int `json:"medium"`
	Low        int `json:"low"`
	Negligible int `json:"negligible"`
	Unknown    int `json:"unknown"`
	Fixable    int `json:"fixable"` // vulnerabilities, of whatever severity, that an update fixes
	Secrets    int `json:"secrets"`
	Faults     int `json:"faults"` // all faults, secrets included
}

// Summary counts the vulnerabilities by severity, and the faults.
func (r *Report) Summary() Summary {
	var s Summary
	by := map[osvdb.Severity]*int{
		osvdb.Critical: &s.Critical, osvdb.High: &s.High, osvdb.Medium: &s.Medium,
		osvdb.Low: &s.Low, osvdb.Negligible: &s.Negligible, osvdb.Unknown: &s.Unknown,
	}
	for _, v := range r.Vulnerabilities {
		*by[v.Severity]++
		if v.Fixed != "" {
			s.Fixable++
		}
	}
	for _, f := range r.Faults {
		s.Faults++
		if f.Rule == RuleSecret {
			s.Secrets++
		}
	}
	return s
}

// RuleSecret is the rule of faults that are secrets.
const RuleSecret = "secret"

// Worst is the highest severity of anything in the report; ok is false when there is nothing.
func (r *Report) Worst() (worst osvdb.Severity, ok bool) {
	for _, v := range r.Vulnerabilities {
		worst, ok = max(worst, v.Severity), true
	}
	for _, f := range r.Faults {
		worst, ok = max(worst, f.Severity), true
	}
	return worst, ok
}

// Sort puts everything in its order: the worst first.
func (r *Report) Sort() {
	slices.SortFunc(r.Packages, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Ecosystem, b.Ecosystem), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Path, b.Path))
	})
	slices.SortFunc(r.Vulnerabilities, func(a, b Vulnerability) int {
		return cmp.Or(-cmp.Compare(a.Severity, b.Severity), -cmp.Compare(a.Score, b.Score), cmp.Compare(a.Package, b.Package),
			cmp.Compare(a.ID, b.ID), cmp.Compare(a.Installed, b.Installed), cmp.Compare(a.Path, b.Path))
	})
	slices.SortFunc(r.Faults, func(a, b Fault) int {
		return cmp.Or(-cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Path, b.Path),
			cmp.Compare(a.Line, b.Line), strings.Compare(a.Message, b.Message))
	})
}

// Keys name the findings, so that two reports of one image can be compared.
func (r *Report) Keys() map[string]bool {
	keys := map[string]bool{}
	for _, v := range r.Vulnerabilities {
		keys[v.ID+" "+v.Package] = true
	}
	return keys
}
