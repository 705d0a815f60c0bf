package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/progress"
	"github.com/gantryhq/gantry/services/build/base"
)

func linuxPlatform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

func newBaseListCommand(g *globals) *cobra.Command {
	var output *string
	c := &cobra.Command{
		Use:   "list",
		Short: "List the base images in the built-in registry",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			images, err := listBases(c.Context(), findInstance(c.Context(), g))
			if err != nil {
				return err
			}
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), images)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(w, "NAME\tDIGEST\tVERSION\tPACKAGES\tSIZE\tRELEASE OF")
			for _, i := range images {
				fmt.Fprintf(w, "%s\t%.19s\t%s\t%d\t%s\t%.10s\n", image.FamiliarName(i.Name), i.Digest, i.Version, len(i.Packages), size(i.Size), i.Created)
			}
			return w.Flush()
		},
	}
	output = outputFlag(c)
	return c
}

func listBases(ctx context.Context, in instance) ([]base.Image, error) {
	images, err := base.List(ctx, in.registry)
	if err != nil {
		return nil, hint.Wrap(withoutURLs(err), "is `gantry serve` running?")
	}
	if images == nil {
		images = []base.Image{} // a list in JSON too
	}
	return images, nil
}

// refreshed is what became of one base image.
type refreshed struct {
	Name    string    `json:"name"`
	Before  string    `json:"before"` // digest
	After   string    `json:"after"`
	Updates []string  `json:"updates"` // packages
	Derived []derived `json:"derived,omitempty"`
}

// derived is an image that is built on the former base image.
type derived struct {
	Name    string `json:"name"`
	Rebuild string `json:"rebuild"` // the command that builds it anew
	Started bool   `json:"started"` // it runs
}

func newBaseRefreshCommand(g *globals) *cobra.Command {
	var withDerived, rebuild, check bool
	var output *string
	c := &cobra.Command{
		Use:   "refresh [NAME...]",
		Short: "Make base images anew whose packages have updates",
		Long: "Compares the packages of base images with the distribution's of today and makes those anew\n" +
			"that have updates, all of them without a NAME. --derived lists the images that are built on\n" +
			"what was replaced, told by their layers, with the command that builds each anew; --rebuild\n" +
			"starts the pipelines that built them.",
		Example: "  gantry base refresh --check\n" +
			"  gantry base refresh --derived",
		RunE: func(c *cobra.Command, names []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			r := refresher{globals: g, in: findInstance(ctx, g), check: check, derived: withDerived || rebuild, rebuild: rebuild}
			results, err := r.run(ctx, names)
			if *output == "json" && results != nil {
				return errors.Join(err, writeJSON(c.OutOrStdout(), results))
			}
			return errors.Join(err, printRefreshed(c.OutOrStdout(), results, check))
		},
	}
	f := c.Flags()
	f.BoolVar(&check, "check", false, "only say what has updates")
	f.BoolVar(&withDerived, "derived", false, "list the images that are built on what was replaced")
	f.BoolVar(&rebuild, "rebuild", false, "start the pipelines that built those")
	output = outputFlag(c)
	return c
}

type refresher struct {
	*globals
	in                      instance
	check, derived, rebuild bool
}

func (r *refresher) run(ctx context.Context, names []string) ([]refreshed, error) {
	images, err := listBases(ctx, r.in)
	if err != nil {
		return nil, err
	}
	if images, err = r.chosen(images, names); err != nil {
		return nil, err
	}
	display := progress.New(os.Stderr)
	defer display.Close()
	var out []refreshed
	for _, i := range images {
		one, err := r.one(ctx, i, display.Task(i.Name))
		if err != nil {
			return out, err
		}
		out = append(out, *one)
	}
	return out, nil
}

func (r *refresher) chosen(images []base.Image, names []string) ([]base.Image, error) {
	if len(names) == 0 {
		return images, nil
	}
	var out []base.Image
	for _, n := range names {
		full, err := r.in.fullName(n)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(images, func(i base.Image) bool { return i.Name == full })
		if i < 0 {
			return nil, hint.Wrap(fmt.Errorf("there is no base image %s", n), "`gantry base list` lists them")
		}
		out = append(out, images[i])
	}
	return out, nil
}

func (r *refresher) one(ctx context.Context, i base.Image, task *progress.Task) (*refreshed, error) {
	out := &refreshed{Name: i.Name, Before: i.Digest, After: i.Digest}
	task.Update("looking for updates")
	var err error
	if out.Updates, err = base.Updates(ctx, i, r.in.baseWorkDir()); err != nil {
		task.Fail("not compared")
		return nil, fmt.Errorf("look for updates of %s: %w", i.Name, err)
	}
	switch {
	case r.check:
		task.Done("%d update(s)", len(out.Updates))
		return out, nil
	case len(out.Updates) == 0 && i.Recipe.Kind != "busybox":
		task.Done("up to date")
		return out, nil
	}
	if r.derived { // before its name means another image
		names, err := base.Derived(ctx, r.in.registry, i)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			out.Derived = append(out.Derived, derived{Name: n})
		}
	}
	made, err := remake(ctx, r.globals, r.in, i, task)
	if err != nil {
		return nil, err
	}
	if out.After = made.Digest; out.After == out.Before {
		out.Derived = nil
		return out, nil
	}
	return out, r.explain(ctx, out.Derived)
}

// explain says of each image how it is built anew, and starts that when told to.
func (r *refresher) explain(ctx context.Context, images []derived) error {
	if len(images) == 0 {
		return nil
	}
	pipelines := builtBy(ctx, r.globals)
	for i := range images {
		d := &images[i]
		repository, _, _ := strings.Cut(strings.TrimPrefix(d.Name, r.in.registry+"/"), ":")
		p, known := pipelines[repository]
		if !known {
			d.Rebuild = fmt.Sprintf("gantry build -t %s PATH, or gantry up PATH, where its source is", path.Clean(repository))
			continue
		}
		d.Rebuild = fmt.Sprintf("gantry pipeline run %s --namespace %s", p.name, p.namespace)
		if r.rebuild {
			if err := startPipeline(ctx, r.globals, p); err != nil {
				return err
			}
			d.Started = true
		}
	}
	return nil
}

func printRefreshed(out io.Writer, results []refreshed, check bool) error {
	var err error
	say := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(out, format, args...)
		}
	}
	for _, r := range results {
		switch {
		case check && len(r.Updates) > 0:
			say("%s: %d update(s): %s\n", r.Name, len(r.Updates), strings.Join(r.Updates, ", "))
		case r.Before == r.After:
			say("%s: up to date\n", r.Name)
		default:
			say("%s: %.19s is now %.19s\n", r.Name, r.Before, r.After)
		}
		for _, d := range r.Derived {
			if d.Started {
				say("  %s is being rebuilt by its pipeline\n", d.Name)
			} else {
				say("  %s is built on the former one; rebuild: %s\n", d.Name, d.Rebuild)
			}
		}
	}
	return err
}
