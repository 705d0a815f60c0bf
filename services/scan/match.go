package scan

import (
	"slices"
	"strings"

	"github.com/gantryhq/gantry/services/scan/osvdb"
	"github.com/gantryhq/gantry/services/scan/report"
)

// match looks packages up. Records of one vulnerability from several sources become
// one finding per package.
func match(db *osvdb.DB, packages []report.Package) ([]report.Vulnerability, error) {
	out := []report.Vulnerability{}
	for _, p := range packages {
		found, err := db.Match(lookup(p))
		if err != nil {
			return nil, err
		}
		var of []report.Vulnerability
		for _, m := range found {
			v := finding(p, m)
			if i := slices.IndexFunc(of, func(o report.Vulnerability) bool { return same(o, v) }); i >= 0 {
				of[i] = join(of[i], v)
				continue
			}
			of = append(of, v)
		}
		out = append(out, of...)
	}
	return out, nil
}

// lookup is how OSV records name a package: those of Debian, Ubuntu and Alpine by the
// source that it was built from, with the version of that.
func lookup(p report.Package) osvdb.Package {
	q := osvdb.Package{Ecosystem: p.Ecosystem, Name: p.Name, Version: p.Version}
	family, _, _ := strings.Cut(p.Ecosystem, ":")
	switch family {
	case "Debian", "Ubuntu", "Alpine", "Wolfi", "Chainguard", "Alpaquita":
		if p.Source != "" {
			q.Name = p.Source
		}
		if p.SourceVersion != "" {
			q.Version = p.SourceVersion
		}
	}
	return q
}

func finding(p report.Package, m osvdb.Match) report.Vulnerability {
	v := report.Vulnerability{
		ID: m.ID, Severity: m.Severity, Score: m.Score, Vector: m.Vector, Summary: m.Summary,
		Package: p.Name, Installed: p.Version, Fixed: m.Fixed, Ecosystem: p.Ecosystem, PURL: p.PURL, Path: p.Path, Layer: p.Layer,
		URL: "https://osv.dev/vulnerability/" + m.ID,
	}
	names := append([]string{m.ID}, m.Aliases...)
	if i := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, "CVE-") }); i > 0 && cves(names) == 1 {
		v.ID = names[i]
	}
	v.Aliases = others(names, v.ID)
	return v
}

// cves counts them: a distribution's advisory is often about several.
func cves(names []string) (n int) {
	for _, name := range names {
		if strings.HasPrefix(name, "CVE-") {
			n++
		}
	}
	return n
}

func others(names []string, id string) []string {
	out := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == id })
	slices.Sort(out)
	return slices.Compact(out)
}

// same is whether two findings of one package are about one vulnerability: one is
// named by the other, and neither is about several.
func same(a, b report.Vulnerability) bool {
	if a.ID == b.ID {
		return true
	}
	if cves(append([]string{a.ID}, a.Aliases...)) > 1 || cves(append([]string{b.ID}, b.Aliases...)) > 1 {
		return false
	}
	return slices.Contains(a.Aliases, b.ID) || slices.Contains(b.Aliases, a.ID)
}

// join keeps what either record knows, and the worse severity.
func join(a, b report.Vulnerability) report.Vulnerability {
	a.Aliases = others(append(append([]string{b.ID}, a.Aliases...), b.Aliases...), a.ID)
	if b.Severity > a.Severity {
		a.Severity, a.Score, a.Vector = b.Severity, b.Score, b.Vector
	}
	if a.Fixed == "" {
		a.Fixed = b.Fixed
	}
	if a.Summary == "" {
		a.Summary = b.Summary
	}
	return a
}
