package osvdb

import (
	"slices"

	"github.com/google/osv-scalibr/semantic"
)

// affects evaluates an advisory for one version, as the OSV schema's "Evaluation"
// section says, and names the version that ends the range it is in.
func affects(a Advisory, family, version string) (affected bool, fixed string) {
	v, err := semantic.Parse(version, family)
	if err != nil {
		return slices.Contains(a.Versions, version), ""
	}
	for _, r := range a.Ranges {
		if in, end := r.contains(v, family); in {
			return true, end
		}
	}
	if slices.ContainsFunc(a.Versions, func(listed string) bool { return listed == version || equal(v, listed) }) {
		return true, ""
	}
	return false, ""
}

// equal is whether two spellings mean one version.
func equal(v semantic.Version, other string) bool {
	order, err := v.CompareStr(other)
	return err == nil && order == 0
}

// contains follows the events in the order of their versions. Events that cannot be
// compared are passed over.
func (r Range) contains(v semantic.Version, family string) (in bool, fixed string) {
	events := slices.Clone(r)
	slices.SortStableFunc(events, func(a, b Event) int { return compareEvents(a, b, family) })
	for _, e := range events {
		if e.Introduced == "0" {
			in = true
			continue
		}
		order, err := v.CompareStr(e.version())
		if err != nil {
			continue
		}
		switch {
		case e.Introduced != "" && order >= 0:
			in = true
		case e.Fixed != "" && order >= 0, e.LastAffected != "" && order > 0:
			in = false
		case in && e.Fixed != "":
			return true, e.Fixed
		case in && e.LastAffected != "":
			return true, ""
		}
	}
	return in, ""
}

func compareEvents(a, b Event, family string) int {
	switch {
	case a.Introduced == "0":
		return -1
	case b.Introduced == "0":
		return 1
	}
	v, err := semantic.Parse(a.version(), family)
	if err != nil {
		return 0
	}
	order, err := v.CompareStr(b.version())
	if err != nil {
		return 0
	}
	return order
}
