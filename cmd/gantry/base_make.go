package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/progress"
	"github.com/gantryhq/gantry/services/build/base"
	"github.com/gantryhq/gantry/services/scan"
)

func newBaseMakeCommand(g *globals) *cobra.Command {
	var opt base.SlimOptions
	c := &cobra.Command{
		Use:   "make NAME[:VERSION]",
		Short: "Make an image of named packages only, without shell and package manager",
		Long: "Makes an image that holds the files of the named packages and nothing else: no shell, no\n" +
			"package manager, programs run as user 65532. These names have packages of their own, to\n" +
			"which --packages adds; any other name takes what --packages says:\n\n" +
			"  static   certificates, time zones: for programs without libraries, such as Go's\n" +
			"  base     and the C library and TLS\n" +
			"  cc       and the libraries of C++, Rust and D\n\n" +
			"debian and busybox make the whole images, as `gantry base debian` and `busybox` do.",
		Example: "  gantry base make static\n" +
			"  gantry base make cc:13 --packages libpq5 --with-dependencies",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			kind, version, _ := strings.Cut(args[0], ":")
			if version != "" && opt.Suite != "" {
				return usageError{errors.New("gantry base make: say the release once, as NAME:VERSION or with --suite")}
			}
			if opt.Suite == "" {
				opt.Suite = suiteOf(version)
			}
			switch kind {
			case "debian":
				debian := base.DebianOptions{Tag: opt.Tag, Suite: opt.Suite, Include: opt.Packages, Mirror: opt.Mirror, Refresh: opt.Refresh}
				return makeBase(c, g, "debian:"+base.SuiteVersion(opt.Suite), &debian.Tag, &debian.WorkDir, func(t *progress.Task) { debian.Progress = lines(t) },
					func(ctx context.Context) (*base.Result, error) { return base.Debian(ctx, debian) })
			case "busybox":
				busybox := base.BusyboxOptions{Tag: opt.Tag, Refresh: opt.Refresh}
				return makeBase(c, g, "busybox:latest", &busybox.Tag, &busybox.WorkDir, func(t *progress.Task) { busybox.Progress = lines(t) },
					func(ctx context.Context) (*base.Result, error) { return base.Busybox(ctx, busybox) })
			}
			own := base.Kinds(opt.Suite)[kind]
			if opt.Packages = append(opt.Packages, own...); len(opt.Packages) == 0 {
				return usageError{hint.Wrap(fmt.Errorf("gantry base make %s: say with --packages what is in it", kind),
					"%s, debian and busybox need no packages", strings.Join(slices.Sorted(maps.Keys(base.Kinds(opt.Suite))), ", "))}
			}
			opt.Name = kind
			return makeBase(c, g, kind+":"+base.SuiteVersion(opt.Suite), &opt.Tag, &opt.WorkDir, func(t *progress.Task) { opt.Progress = lines(t); opt.Count = counts(t) },
				func(ctx context.Context) (*base.Result, error) { return base.Slim(ctx, opt) })
		},
	}
	f := c.Flags()
	f.StringSliceVar(&opt.Packages, "packages", nil, "packages, separated by commas")
	f.BoolVar(&opt.Dependencies, "with-dependencies", false, "also what the packages depend on")
	f.BoolVar(&opt.Root, "root", false, "programs run as root, not as user 65532")
	f.StringVar(&opt.Tag, "tag", "", "name of the image (default base/NAME:VERSION in the built-in registry)")
	f.StringVar(&opt.Suite, "suite", "", "Debian suite (default this machine's, or bookworm)")
	f.StringVar(&opt.Mirror, "mirror", "", "Debian mirror (default the one in apt's sources)")
	f.BoolVar(&opt.Refresh, "refresh", false, "make it anew, with the updates of today")
	return c
}

// suiteOf is the suite of a version: "13" is trixie. A name stays one.
func suiteOf(version string) string {
	for _, suite := range []string{"bullseye", "bookworm", "trixie", "forky"} {
		if base.SuiteVersion(suite) == version {
			return suite
		}
	}
	if version == "" {
		return base.HostSuite()
	}
	return version
}

// vouch signs a base image with the installation's key, and attaches the list of its
// packages.
func vouch(ctx context.Context, g *globals, in instance, image string) error {
	kube := func() (kubernetes.Interface, error) {
		cfg, err := g.config()
		if err != nil {
			return nil, err
		}
		return kubernetes.NewForConfig(cfg)
	}
	signer := &imageSigner{kube: kube}
	if err := signer.sign(ctx, image); err != nil {
		return err
	}
	digest, err := name.NewDigest(image)
	if err != nil {
		return err
	}
	results := instanceResults(ctx, g, in, digest)
	if results == nil {
		return errors.New("the installation's key cannot be read")
	}
	if has, err := results.HasSBOM(ctx, digest); err != nil || has {
		return err
	}
	img, err := scan.Pull(ctx, digest, linuxPlatform(), remoteOptions(ctx)...)
	if err != nil {
		return err
	}
	r, err := (&scan.Scanner{}).Image(ctx, digest.Context().Name(), img)
	if err != nil {
		return err
	}
	return results.PutSBOM(ctx, digest, r)
}

// remake makes a base image again as it was made, with the packages of today.
func remake(ctx context.Context, g *globals, in instance, of base.Image, task *progress.Task) (*base.Result, error) {
	r := of.Recipe
	work := in.baseWorkDir()
	report := lines(task)
	run := func(ctx context.Context) (*base.Result, error) {
		switch r.Kind {
		case "debian":
			return base.Debian(ctx, base.DebianOptions{Tag: of.Name, Suite: r.Suite, Include: r.Packages, WorkDir: work, Refresh: true, Progress: report})
		case "busybox":
			return base.Busybox(ctx, base.BusyboxOptions{Tag: of.Name, WorkDir: work, Refresh: true, Progress: report})
		case "slim":
			return base.Slim(ctx, base.SlimOptions{
				Tag: of.Name, Name: r.Name, Suite: r.Suite, Packages: r.Packages, Dependencies: r.Dependencies, Root: r.Root,
				WorkDir: work, Refresh: true, Progress: report, Count: counts(task),
			})
		}
		return nil, fmt.Errorf("image %s is of a kind %q that this version does not know", of.Name, r.Kind)
	}
	return showBase(ctx, g, in, task, func(*progress.Task) {}, run)
}
