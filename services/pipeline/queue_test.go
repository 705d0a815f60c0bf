package pipeline

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// aBuild is written "shop-3 Poll abc Building", made in the order of numbers.
func aBuild(t *testing.T, text string) *v1alpha1.Build {
	t.Helper()
	var name, trigger, commit, phase string
	if _, err := fmt.Sscan(text, &name, &trigger, &commit, &phase); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	pipeline, digits, _ := strings.Cut(name, "-")
	b := &v1alpha1.Build{}
	if _, err := fmt.Sscan(digits, &b.Spec.Number); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	b.Namespace, b.Name = "ns", name
	b.CreationTimestamp = metav1.NewTime(time.Unix(b.Spec.Number*10, 0))
	b.Spec.Pipeline, b.Spec.Trigger, b.Status.Phase = pipeline, trigger, v1alpha1.BuildPhase(phase)
	if commit != "-" {
		b.Spec.Commit = commit
	}
	if phase == "-" {
		b.Status.Phase = ""
	}
	if trigger == "Rollback" {
		b.Spec.Redeploy = 1
	}
	return b
}

func TestTheQueue(t *testing.T) {
	for name, c := range map[string]struct {
		builds        []string
		running       string
		start, cancel string
	}{
		"the oldest of different pipelines":        {[]string{"c-3 Poll x -", "a-1 Poll x -", "b-2 Poll x -"}, "", "a-1 b-2", ""},
		"one of a pipeline":                        {[]string{"a-1 Manual - -", "a-2 Manual - -"}, "", "a-1", ""},
		"none while its pipeline runs":             {[]string{"a-1 Manual - Building", "a-2 Manual - -"}, "a-1", "", ""},
		"no more than places":                      {[]string{"a-1 Poll x Building", "b-1 Poll x Building", "c-1 Poll x -"}, "a-1 b-1", "", ""},
		"what nobody here runs begins again":       {[]string{"a-1 Poll x Building"}, "", "a-1", ""},
		"what has ended is over":                   {[]string{"a-1 Poll x Failed", "a-2 Poll y Succeeded"}, "", "", ""},
		"a newer commit overtakes what waits":      {[]string{"a-1 Poll x -", "a-2 Webhook y -"}, "", "a-2", "a-1"},
		"a newer commit overtakes what runs":       {[]string{"a-1 Webhook x Testing", "a-2 Webhook y -"}, "a-1", "", "a-1"},
		"but not what is being deployed":           {[]string{"a-1 Poll x Deploying", "a-2 Poll y -"}, "a-1", "", ""},
		"nor what a person started":                {[]string{"a-1 Manual x Building", "a-2 Poll y -"}, "a-1", "", ""},
		"a rollback overtakes nothing":             {[]string{"a-1 Poll x Building", "a-2 Rollback - -"}, "a-1", "", ""},
		"the same commit again overtakes nothing":  {[]string{"a-1 Poll x -", "a-2 Schedule x -"}, "", "a-1", ""},
		"another pipeline's commit is not a newer": {[]string{"a-1 Poll x -", "b-2 Poll y -"}, "", "a-1 b-2", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var builds []*v1alpha1.Build
			for _, text := range c.builds {
				builds = append(builds, aBuild(t, text))
			}
			running := map[string]bool{}
			for _, b := range strings.Fields(c.running) {
				running["ns/"+b] = true
			}
			d := decide(builds, running, 2)
			if got := names(d.start); got != c.start {
				t.Errorf("starts %q, want %q", got, c.start)
			}
			if got := names(d.cancel); got != c.cancel {
				t.Errorf("cancels %q, want %q", got, c.cancel)
			}
		})
	}
}

func names(builds []*v1alpha1.Build) string {
	var out []string
	for _, b := range builds {
		out = append(out, b.Name)
	}
	return strings.Join(out, " ")
}

func TestOldBuildsGoButNotTheOneToGoBackTo(t *testing.T) {
	var builds []v1alpha1.Build
	for _, text := range []string{"a-1 Poll x Succeeded", "a-2 Poll x Succeeded", "a-3 Poll x Failed", "a-4 Poll x Failed", "a-5 Poll x Building"} {
		b := *aBuild(t, text)
		if b.Status.Phase == v1alpha1.BuildSucceeded {
			b.Status.Deployment = &v1alpha1.BuildDeployment{Ready: true}
		}
		builds = append(builds, b)
	}
	var gone []string
	for _, b := range obsolete(builds, 1) {
		gone = append(gone, b.Name)
	}
	if got := strings.Join(gone, " "); got != "a-3 a-1" {
		t.Errorf("removes %q", got)
	}
}
