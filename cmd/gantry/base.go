package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/progress"
	"github.com/gantryhq/gantry/services/build/base"
)

func newBaseCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "base",
		Short: "Make and refresh base images from this machine's own package sources",
		Long: "Makes images that Dockerfiles can start FROM and pushes them to the built-in registry,\n" +
			"so that nothing has to be pulled from a public one. They are signed with the installation's\n" +
			"key, with the list of their packages attached. An image that exists is kept; refresh makes\n" +
			"it anew when its packages have updates.",
		RunE: func(c *cobra.Command, _ []string) error {
			return usageError{hint.Wrap(errors.New("gantry base: say what to do: make, list or refresh, or which image: debian or busybox"), "see `%s --help`", c.CommandPath())}
		},
	}
	c.AddCommand(newBaseMakeCommand(g), newBaseListCommand(g), newBaseRefreshCommand(g), newBaseDebianCommand(g), newBaseBusyboxCommand(g))
	return c
}

func newBaseDebianCommand(g *globals) *cobra.Command {
	var opt base.DebianOptions
	c := &cobra.Command{
		Use:   "debian",
		Short: "A minimal Debian, from the mirror this machine's apt uses",
		Example: "  gantry base debian\n" +
			"  gantry base debian --suite trixie --include curl,git",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if opt.Suite == "" {
				opt.Suite = base.HostSuite()
			}
			return makeBase(c, g, "debian:"+base.SuiteVersion(opt.Suite), &opt.Tag, &opt.WorkDir, func(t *progress.Task) { opt.Progress = lines(t) },
				func(ctx context.Context) (*base.Result, error) { return base.Debian(ctx, opt) })
		},
	}
	f := c.Flags()
	f.StringVar(&opt.Tag, "tag", "", "name of the image (default base/debian:VERSION in the built-in registry)")
	f.StringVar(&opt.Suite, "suite", "", "Debian suite (default this machine's, or bookworm)")
	f.StringSliceVar(&opt.Include, "include", nil, "further packages, separated by commas")
	f.StringVar(&opt.Mirror, "mirror", "", "Debian mirror (default the one in apt's sources)")
	f.BoolVar(&opt.Refresh, "refresh", false, "make it anew, with the updates of today")
	return c
}

func newBaseBusyboxCommand(g *globals) *cobra.Command {
	var opt base.BusyboxOptions
	c := &cobra.Command{
		Use:   "busybox",
		Short: "A static busybox, 1 MB, for tests and debugging",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return makeBase(c, g, "busybox:latest", &opt.Tag, &opt.WorkDir, func(t *progress.Task) { opt.Progress = lines(t) },
				func(ctx context.Context) (*base.Result, error) { return base.Busybox(ctx, opt) })
		},
	}
	f := c.Flags()
	f.StringVar(&opt.Tag, "tag", "", "name of the image (default base/busybox:latest in the built-in registry)")
	f.BoolVar(&opt.Refresh, "refresh", false, "make it anew")
	return c
}

// makeBase gives the image its name, makes it, signs it and says what came of it.
// watch is told which task shows the progress.
func makeBase(c *cobra.Command, g *globals, name string, tag, workDir *string, watch func(*progress.Task), run func(context.Context) (*base.Result, error)) error {
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	in := findInstance(ctx, g)
	if *tag == "" {
		*tag = "base/" + name
	}
	full, err := in.fullName(*tag)
	if err != nil {
		return err
	}
	*tag = full
	*workDir = in.baseWorkDir()
	display := progress.New(os.Stderr)
	r, err := showBase(ctx, g, in, display.Task(full), watch, run)
	display.Close()
	if err != nil {
		return err
	}
	return printBase(c.OutOrStdout(), r)
}

// lines shows what a task is doing.
func lines(task *progress.Task) base.Progress {
	return func(line string) { task.Update("%s", line) }
}

// counts turns a task into a bar.
func counts(task *progress.Task) func(n, of int) {
	return func(n, of int) { task.Count(int64(n), int64(of)) }
}

func (in instance) baseWorkDir() string { return filepath.Join(in.dataDir, "build", "tmp") }

// showBase makes one image as a task of a display, and vouches for it.
func showBase(ctx context.Context, g *globals, in instance, task *progress.Task, watch func(*progress.Task), run func(context.Context) (*base.Result, error)) (*base.Result, error) {
	watch(task)
	r, err := run(ctx)
	if err != nil {
		task.Fail("not made")
		return nil, err
	}
	signed := ""
	if in.builtIn(r.Ref) {
		task.Update("signing")
		if err := vouch(ctx, g, in, r.Ref+"@"+r.Digest); err != nil {
			signed = ", not signed: " + err.Error()
		}
	}
	if r.Skipped {
		task.Done("exists already%s", signed)
	} else {
		task.Done("%d package(s), %s%s", r.Packages, size(r.Size), signed)
	}
	return r, nil
}

func printBase(out io.Writer, r *base.Result) error {
	_, err := fmt.Fprintf(out, "%s@%s\n", r.Ref, r.Digest)
	return err
}

// size prints bytes as people read them.
func size(bytes int64) string {
	switch {
	case bytes >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(bytes)/1e9)
	case bytes >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
	}
	return fmt.Sprintf("%.1f kB", float64(bytes)/1e3)
}
