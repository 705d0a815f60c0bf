// Package ruleset reads rules: Prometheus's rule files and the PrometheusRules of the Prometheus
// operator (monitoring.coreos.com/v1), and confines those of a namespace to its own samples.
//
// All functions are pure. What they return has passed Prometheus's own checks, expressions and
// templates included, so that loading it cannot fail.
//
// Imported by services/alerts.
package ruleset

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// File is what Prometheus calls a rule file.
type File struct {
	// Name tells files apart: gantry/FILE.yaml for those of the program, else NAMESPACE/NAME of a PrometheusRule.
	Name   string
	Groups []rulefmt.RuleGroup
}

// expressions switches on nothing that Prometheus calls experimental.
var expressions = parser.NewParser(parser.Options{})

// Parse reads a rule file. The error names every fault in it.
func Parse(name string, text []byte) (File, error) {
	groups, faults := rulefmt.Parse(text, false, model.UTF8Validation, expressions, slog.New(slog.DiscardHandler))
	if len(faults) > 0 {
		return File{}, fmt.Errorf("rules %s: %w", name, errors.Join(faults...))
	}
	return File{Name: name, Groups: groups.Groups}, nil
}

// The fields of a PrometheusRule that are honoured; the API keeps the others as they are.
type (
	prometheusRule struct {
		Spec struct {
			Groups []group `json:"groups"`
		} `json:"spec"`
	}
	group struct {
		Name        string            `json:"name"`
		Interval    string            `json:"interval,omitempty"`
		QueryOffset string            `json:"query_offset,omitempty"`
		Limit       int               `json:"limit,omitempty"`
		Labels      map[string]string `json:"labels,omitempty"`
		Rules       []rule            `json:"rules"`
	}
	rule struct {
		Record        string             `json:"record,omitempty"`
		Alert         string             `json:"alert,omitempty"`
		Expr          intstr.IntOrString `json:"expr"`
		For           string             `json:"for,omitempty"`
		KeepFiringFor string             `json:"keep_firing_for,omitempty"`
		Labels        map[string]string  `json:"labels,omitempty"`
		Annotations   map[string]string  `json:"annotations,omitempty"`
	}
)

// minInterval is the shortest time between two evaluations that a PrometheusRule may ask for.
const minInterval = 5 * time.Second

// maxExpression is how long an expression of a PrometheusRule may be: a deeply nested one takes minutes to be read.
const maxExpression = 32 << 10

// FromObject reads a PrometheusRule. The error names every fault in it.
func FromObject(o *unstructured.Unstructured) (File, error) {
	var r prometheusRule
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &r); err != nil {
		return File{}, fmt.Errorf("rules %s: %w", key(o), err)
	}
	for _, g := range r.Spec.Groups {
		for _, one := range g.Rules {
			if n := len(one.Expr.String()); n > maxExpression {
				return File{}, fmt.Errorf("rules %s: group %s: an expression has %d bytes, more than %d", key(o), g.Name, n, maxExpression)
			}
		}
	}
	text, err := yaml.Marshal(r.Spec) // the form of Prometheus's own files
	if err != nil {
		return File{}, fmt.Errorf("rules %s: %w", key(o), err)
	}
	f, err := Parse(key(o), text)
	for _, g := range f.Groups {
		if g.Interval != 0 && time.Duration(g.Interval) < minInterval {
			return File{}, fmt.Errorf("rules %s: group %s: interval %s is shorter than %s, the shortest that is allowed", key(o), g.Name, g.Interval, minInterval)
		}
	}
	return f, err
}

func key(o metav1.Object) string {
	return cmp.Or(o.GetNamespace(), metav1.NamespaceDefault) + "/" + o.GetName()
}
