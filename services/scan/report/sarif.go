package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/gantryhq/gantry/services/scan/osvdb"
)

// The part of SARIF 2.1.0 (https://docs.oasis-open.org/sarif/sarif/v2.1.0/) that code
// scanning services read.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool    sarifTool     `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name           string      `json:"name"`
		InformationURI string      `json:"informationUri"`
		Rules          []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID         string         `json:"id"`
		Short      sarifText      `json:"shortDescription"`
		HelpURI    string         `json:"helpUri,omitempty"`
		Properties map[string]any `json:"properties"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID       string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        string            `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Fingerprints map[string]string `json:"partialFingerprints"`
	}
	sarifLocation struct {
		Physical sarifPhysical `json:"physicalLocation"`
		Message  *sarifText    `json:"message,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   sarifRegion   `json:"region"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
	}
)

// WriteSARIF writes what code scanning services take in.
func (r *Report) WriteSARIF(out io.Writer) error {
	run := sarifRun{Results: []sarifResult{}, Tool: sarifTool{sarifDriver{Name: "gantry scan", InformationURI: "https://gantry.dev", Rules: []sarifRule{}}}}
	rules := map[string]int{}
	add := func(rule sarifRule, s osvdb.Severity, message, path string, line int, layer *int) {
		index, known := rules[rule.ID]
		if !known {
			index = len(run.Tool.Driver.Rules)
			rules[rule.ID] = index
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, rule)
		}
		at := sarifLocation{Physical: sarifPhysical{sarifArtifact{uri(path)}, sarifRegion{max(line, 1)}}}
		if layer != nil && *layer < len(r.Layers) {
			at.Message = &sarifText{fmt.Sprintf("layer %d, %s", *layer+1, r.Layers[*layer].Digest)}
		}
		run.Results = append(run.Results, sarifResult{
			RuleID: rule.ID, RuleIndex: index, Level: level(s), Message: sarifText{message}, Locations: []sarifLocation{at},
			Fingerprints: map[string]string{"gantry/v1": strings.Join([]string{rule.ID, path, message}, "|")},
		})
	}
	for _, v := range r.Vulnerabilities {
		message := fmt.Sprintf("%s %s has %s, for which there is no fix yet", v.Package, v.Installed, v.ID)
		if v.Fixed != "" {
			message = fmt.Sprintf("%s %s has %s, fixed in %s", v.Package, v.Installed, v.ID, v.Fixed)
		}
		add(sarifRule{v.ID, sarifText{orElse(v.Summary, v.ID)}, v.URL, properties(v.Severity, v.Score, "vulnerability")}, v.Severity, message, v.Path, 1, &v.Layer)
	}
	for _, f := range r.Faults {
		add(sarifRule{f.Rule, sarifText{orElse(f.Fix, f.Message)}, f.URL, properties(f.Severity, 0, "fault")}, f.Severity, f.Message, orElse(f.Path, r.Target), f.Line, f.Layer)
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}})
}

// uri is a path as a relative URI reference.
func uri(path string) string {
	return strings.NewReplacer("%", "%25", " ", "%20", "#", "%23", "?", "%3F").Replace(strings.TrimPrefix(path, "/"))
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// properties carry the score by which services sort; where there is no CVSS score it
// is the middle of the severity's range.
func properties(s osvdb.Severity, score float64, tag string) map[string]any {
	if score == 0 {
		score = map[osvdb.Severity]float64{osvdb.Critical: 9.5, osvdb.High: 8, osvdb.Medium: 5.5, osvdb.Low: 2, osvdb.Negligible: 0.1}[s]
	}
	return map[string]any{"security-severity": fmt.Sprintf("%.1f", score), "tags": []string{"security", tag}}
}

func level(s osvdb.Severity) string {
	switch {
	case s >= osvdb.High:
		return "error"
	case s == osvdb.Medium:
		return "warning"
	}
	return "note"
}
