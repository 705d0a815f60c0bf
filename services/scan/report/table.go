package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/gantryhq/gantry/services/scan/osvdb"
)

// TableOptions say how much the table shows.
type TableOptions struct {
	AtLeast osvdb.Severity // hide what is less severe; hidden lines are counted
	Color   bool
}

// WriteTable writes what a person reads: one line that says it all, then the
// vulnerabilities, those of one package and one fix in one line, then the faults.
func (r *Report) WriteTable(out io.Writer, opt TableOptions) error {
	w := &tableWriter{Writer: out, opt: opt}
	w.headline(r)
	w.vulnerabilities(r)
	w.faults(r)
	for _, n := range r.Notes {
		w.print("note: %s\n", n)
	}
	return w.err
}

type tableWriter struct {
	io.Writer
	opt TableOptions
	err error
}

func (w *tableWriter) print(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w, format, args...)
	}
}

func (w *tableWriter) headline(r *Report) {
	w.print("%s", r.Target)
	if r.OS != "" {
		w.print(" (%s)", r.OS)
	}
	w.print("\n%s\n", r.Line())
	if r.Database == nil && r.Digest != "" {
		w.print("There is no vulnerability database: make one with `gantry scan db import`.\n")
	}
}

// Line is the summary in one line.
func (r *Report) Line() string {
	s := r.Summary()
	var parts []string
	for _, c := range []struct {
		n    int
		name string
	}{{s.Critical, "critical"}, {s.High, "high"}, {s.Medium, "medium"}, {s.Low, "low"}, {s.Negligible, "negligible"}, {s.Unknown, "unknown"}} {
		if c.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c.n, c.name))
		}
	}
	var line string
	switch {
	case r.Digest == "":
	case r.Database == nil:
		line = fmt.Sprintf("%d packages, vulnerabilities unknown", len(r.Packages))
	case len(parts) == 0:
		line = fmt.Sprintf("%d packages, no known vulnerability", len(r.Packages))
	default:
		line = fmt.Sprintf("%d packages, vulnerabilities: %s (%d with a fix)", len(r.Packages), strings.Join(parts, ", "), s.Fixable)
	}
	faults := "no faults"
	if n := s.Faults - s.Secrets; n > 0 {
		faults = plural(n, "fault")
	}
	if s.Secrets > 0 {
		faults = plural(s.Secrets, "secret") + ", " + faults
	}
	if line == "" {
		return faults
	}
	return line + "; " + faults
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if stem, ok := strings.CutSuffix(noun, "y"); ok {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// row is the vulnerabilities of one severity that one update of one package fixes.
type row struct {
	severity                  osvdb.Severity
	pkg, installed, fixed, at string
	ids                       []string
	summary                   string
}

func (w *tableWriter) vulnerabilities(r *Report) {
	var rows []row
	hidden := 0
	for _, v := range r.Vulnerabilities {
		if v.Severity < w.opt.AtLeast {
			hidden++
			continue
		}
		at := v.Path
		if !strings.Contains(v.PURL, "pkg:deb/") && !strings.Contains(v.PURL, "pkg:apk/") && !strings.Contains(v.PURL, "pkg:rpm/") {
			at = "/" + at
		} else {
			at = ""
		}
		i := slices.IndexFunc(rows, func(o row) bool {
			return o.severity == v.Severity && o.pkg == v.Package && o.installed == v.Installed && o.fixed == v.Fixed && o.at == at
		})
		if i < 0 {
			rows = append(rows, row{v.Severity, v.Package, v.Installed, v.Fixed, at, nil, v.Summary})
			i = len(rows) - 1
		}
		rows[i].ids = append(rows[i].ids, v.ID)
	}
	if len(rows) > 0 {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "\n"+w.cell("SEVERITY", osvdb.Unknown)+"\tPACKAGE\tINSTALLED\tFIXED IN\tVULNERABILITY")
		for _, o := range rows {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", w.cell(o.severity.String(), o.severity), o.name(), o.installed, cmp.Or(o.fixed, "-"), o.what())
		}
		w.flush(t)
	}
	w.hidden(hidden, "vulnerability")
}

func (o row) name() string {
	if o.at == "" {
		return o.pkg
	}
	return o.pkg + " (" + o.at + ")"
}

const (
	shownIDs     = 3
	shownSummary = 60
)

// what names one vulnerability with its summary, and several by their ids.
func (o row) what() string {
	if len(o.ids) == 1 {
		s := []rune(o.summary)
		if len(s) > shownSummary {
			s = append(s[:shownSummary-1], '…')
		}
		return strings.TrimSpace(o.ids[0] + " " + string(s))
	}
	return some(o.ids, shownIDs)
}

// faultRow is faults that differ only in where they are.
type faultRow struct {
	Fault
	places []string
}

const shownPlaces = 2

func (w *tableWriter) faults(r *Report) {
	var rows []faultRow
	hidden := 0
	for _, f := range r.Faults {
		if f.Severity < w.opt.AtLeast {
			hidden++
			continue
		}
		i := slices.IndexFunc(rows, func(o faultRow) bool {
			return o.Severity == f.Severity && o.Rule == f.Rule && o.text() == f.text()
		})
		if i < 0 {
			i = len(rows)
			rows = append(rows, faultRow{Fault: f})
		}
		rows[i].places = append(rows[i].places, f.where())
	}
	if len(rows) > 0 {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "\n"+w.cell("SEVERITY", osvdb.Unknown)+"\tRULE\tWHERE\tFAULT")
		for _, o := range rows {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", w.cell(o.Severity.String(), o.Severity), o.Rule, some(o.places, shownPlaces), o.text())
		}
		w.flush(t)
	}
	w.hidden(hidden, "fault")
}

// some names the first n, and how many more there are.
func some(all []string, n int) string {
	if len(all) > n+1 {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:n], ", "), len(all)-n)
	}
	return strings.Join(all, ", ")
}

func (f Fault) text() string {
	if f.Fix == "" {
		return f.Message
	}
	return f.Message + "; " + f.Fix
}

func (f Fault) where() string {
	where := f.Path
	if f.Line > 0 {
		where = fmt.Sprintf("%s:%d", where, f.Line)
	}
	if f.Layer != nil {
		where = strings.TrimSpace(fmt.Sprintf("%s layer %d", where, *f.Layer+1))
	}
	return cmp.Or(where, "image")
}

func (w *tableWriter) hidden(n int, what string) {
	if n > 0 {
		w.print("Not shown below %s: %s.\n", w.opt.AtLeast, plural(n, what))
	}
}

func (w *tableWriter) flush(t *tabwriter.Writer) {
	if err := t.Flush(); w.err == nil {
		w.err = err
	}
}

// colors are of one length, so that the columns stay straight.
var colors = map[osvdb.Severity]string{
	osvdb.Unknown: "0;00", osvdb.Negligible: "0;02", osvdb.Low: "0;36", osvdb.Medium: "0;33", osvdb.High: "0;31", osvdb.Critical: "1;31",
}

// cell is a word of the first column, whose writer counts escape sequences as text:
// each cell of the column has one.
func (w *tableWriter) cell(word string, s osvdb.Severity) string {
	if !w.opt.Color {
		return word
	}
	return "\x1b[" + colors[s] + "m" + word + "\x1b[0m"
}

// WriteJSON writes the whole report.
func (r *Report) WriteJSON(out io.Writer) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		*Report
		Summary Summary `json:"summary"`
	}{r, r.Summary()})
}
