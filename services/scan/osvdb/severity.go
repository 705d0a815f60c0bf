package osvdb

import (
	"fmt"
	"strings"

	gocvss20 "github.com/pandatix/go-cvss/20"
	gocvss30 "github.com/pandatix/go-cvss/30"
	gocvss31 "github.com/pandatix/go-cvss/31"
	gocvss40 "github.com/pandatix/go-cvss/40"
)

// Severity is how bad a vulnerability is, on the qualitative scale of CVSS.
type Severity int

// The severities, in ascending order.
const (
	Unknown Severity = iota
	Negligible
	Low
	Medium
	High
	Critical
)

var severityNames = []string{"unknown", "negligible", "low", "medium", "high", "critical"}

func (s Severity) String() string { return severityNames[s] }

// MarshalText writes the severity's name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a severity's name.
func (s *Severity) UnmarshalText(text []byte) error {
	got, err := ParseSeverity(string(text))
	*s = got
	return err
}

// ParseSeverity reads the name of a severity, in any case.
func ParseSeverity(name string) (Severity, error) {
	for i, n := range severityNames {
		if strings.EqualFold(n, name) {
			return Severity(i), nil
		}
	}
	return Unknown, fmt.Errorf("severity %q is none of critical, high, medium, low, negligible, unknown", name)
}

// wordSeverities are the words that databases use besides.
var wordSeverities = map[string]Severity{
	"critical": Critical, "high": High, "important": High, "moderate": Medium, "medium": Medium,
	"low": Low, "negligible": Negligible, "unimportant": Negligible, "minor": Low,
}

// fromWord reads a word such as GitHub's MODERATE, Red Hat's Important or Debian's unimportant.
func fromWord(word string) Severity { return wordSeverities[strings.ToLower(strings.TrimSpace(word))] }

// fromVector computes a CVSS vector's base score, whatever its version.
func fromVector(vector string) (score float64, s Severity) {
	score = baseScore(vector)
	switch {
	case score >= 9:
		s = Critical
	case score >= 7:
		s = High
	case score >= 4:
		s = Medium
	case score > 0:
		s = Low
	}
	return score, s
}

// baseScore is 0 for what is no vector.
func baseScore(vector string) float64 {
	switch {
	case strings.HasPrefix(vector, "CVSS:4.0/"):
		if v, err := gocvss40.ParseVector(vector); err == nil {
			return v.Score()
		}
	case strings.HasPrefix(vector, "CVSS:3.1/"):
		if v, err := gocvss31.ParseVector(vector); err == nil {
			return v.BaseScore()
		}
	case strings.HasPrefix(vector, "CVSS:3.0/"):
		if v, err := gocvss30.ParseVector(vector); err == nil {
			return v.BaseScore()
		}
	default:
		if v, err := gocvss20.ParseVector(vector); err == nil {
			return v.BaseScore()
		}
	}
	return 0
}
