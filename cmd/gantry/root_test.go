package main

import (
	"errors"
	"io"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/gantryhq/gantry/internal/hint"
)

func TestABadCommandLineSaysWhatIsWanted(t *testing.T) {
	for line, want := range map[string]string{
		"backup":             "gantry backup FILE",
		"backup a b":         "gantry backup FILE",
		"status shop":        "gantry status",
		"base debian trixie": "gantry base debian",
		"base":               "debian or busybox",
		"base alpine":        "debian or busybox",
		"push":               "gantry push NAME [TARGET]",
		"rmi":                "one image",
		"up":                 "one PATH",
		"down --all shop":    "gantry down PATH | --all",
		"version -o yaml":    `--output "yaml": only json`,
		"doctor -o yaml":     `--output "yaml": only json`,
	} {
		c := newRootCommand()
		c.SetArgs(strings.Fields(line))
		c.SetOut(io.Discard)
		c.SetErr(io.Discard)
		err := c.Execute()
		if !errors.As(err, new(usageError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("gantry %s: %v; want a usage error with %q", line, err, want)
		}
		if hint.Of(err) == "" && !strings.Contains(line, "-o") {
			t.Errorf("gantry %s: %v has no hint", line, err)
		}
	}
}

func TestMemoryIsPrintedInTheUnitThatFits(t *testing.T) {
	for quantity, want := range map[string]string{"0": "0 MiB", "24Mi": "24 MiB", "1Gi": "1.0 GiB", "24581684Ki": "23.4 GiB"} {
		if got := memory(resource.MustParse(quantity)); got != want {
			t.Errorf("%s is %q, want %q", quantity, got, want)
		}
	}
}
