// Program summary prints what a report of the suite says: how many tests of each group passed, and
// the names and reasons of those that did not.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/onsi/ginkgo/v2/types"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: summary REPORT.json")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

type count struct{ passed, failed int }

func run(path string) error {
	blob, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the suite's report: %w", err)
	}
	var reports []types.Report
	if err := json.Unmarshal(blob, &reports); err != nil {
		return fmt.Errorf("read the suite's report %s: %w", path, err)
	}
	groups, failures := map[string]*count{}, []string{}
	for _, report := range reports {
		for _, spec := range report.SpecReports {
			if spec.LeafNodeType != types.NodeTypeIt || spec.State.Is(types.SpecStateSkipped|types.SpecStatePending) {
				continue
			}
			c := groups[group(spec.FullText())]
			if c == nil {
				c = &count{}
				groups[group(spec.FullText())] = c
			}
			if spec.State.Is(types.SpecStatePassed) {
				c.passed++
				continue
			}
			c.failed++
			failures = append(failures, fmt.Sprintf("%s\n    %s", spec.FullText(), reason(spec)))
		}
	}
	return printResult(groups, failures)
}

func printResult(groups map[string]*count, failures []string) error {
	names := make([]string, 0, len(groups))
	for name := range groups {
		names = append(names, name)
	}
	slices.Sort(names)
	slices.Sort(failures)
	for _, name := range names {
		fmt.Printf("%-20s %4d passed %4d failed\n", name, groups[name].passed, groups[name].failed)
	}
	if len(names) == 0 {
		return fmt.Errorf("no test was run")
	}
	for _, f := range failures {
		fmt.Println("FAIL", f)
	}
	return nil
}

var sig = regexp.MustCompile(`\[(sig-[a-z-]+)\]`)

func group(name string) string {
	if m := sig.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return "other"
}

// reason is the failure in one line.
func reason(spec types.SpecReport) string {
	text := strings.Join(strings.Fields(spec.Failure.Message), " ")
	if len(text) > 300 {
		text = text[:300] + " ..."
	}
	return fmt.Sprintf("%s (%s)", text, spec.Failure.Location)
}
