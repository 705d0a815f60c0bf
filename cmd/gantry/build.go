package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/services/build"
)

func newBuildCommand(g *globals) *cobra.Command {
	var (
		opt           build.Options
		args, secrets []string
		labels        []string
		tags          []string
		quiet         bool
	)
	c := &cobra.Command{
		Use:   "build [-t NAME] PATH",
		Short: "Build an image from a Dockerfile",
		Long: "Builds with BuildKit: the full Dockerfile syntax, multi-stage, cache mounts, secrets.\n" +
			"A NAME without a registry is pushed to the built-in one and can be deployed at once;\n" +
			"a NAME with another registry goes there with --push, else to this machine's images.\n" +
			"Dockerfiles that declare ARG " + build.RegistryArg + " get the built-in registry's host:port.",
		Example: "  gantry build -t shop/cart .\n" +
			"  gantry build -t ghcr.io/acme/cart:1.2 --push --secret id=npm,src=$HOME/.npmrc .",
		Args: onePath,
		RunE: func(c *cobra.Command, paths []string) error {
			var err error
			opt.ContextDir = paths[0]
			if opt.BuildArgs, err = buildArgs(args); err != nil {
				return err
			}
			if opt.Labels, err = keyValues("label", labels); err != nil {
				return err
			}
			if opt.Secrets, err = parseSecrets(secrets); err != nil {
				return err
			}
			if !quiet {
				opt.Display = c.ErrOrStderr()
			}
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return runBuild(ctx, findInstance(ctx, g), opt, tags, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&tags, "tag", "t", nil, "name of the image (repeatable)")
	f.StringVarP(&opt.Dockerfile, "file", "f", "", "the Dockerfile (default PATH/Dockerfile)")
	f.StringVar(&opt.Target, "target", "", "build this stage instead of the last")
	f.StringArrayVar(&args, "build-arg", nil, "NAME=VALUE, or NAME to take it from the environment (repeatable)")
	f.StringArrayVar(&labels, "label", nil, "NAME=VALUE to put into the image (repeatable)")
	f.StringArrayVar(&secrets, "secret", nil, "id=ID,src=FILE or id=ID,env=NAME (repeatable)")
	f.BoolVar(&opt.NoCache, "no-cache", false, "run every step again")
	f.BoolVar(&opt.Push, "push", false, "push names with another registry there")
	f.BoolVar(&opt.Plain, "plain", false, "plain lines instead of moving progress")
	f.BoolVarP(&quiet, "quiet", "q", false, "print only the image's digest")
	return c
}

// runBuild builds once and delivers to the built-in registry, to other
// registries, or to this machine's images; a second delivery comes from the cache.
func runBuild(ctx context.Context, in instance, opt build.Options, tags []string, out io.Writer) error {
	client, err := build.NewClient(build.ClientConfig{DataDir: in.dataDir})
	if err != nil {
		return err
	}
	opt.Registry = in.registry
	var push, load []string
	for _, t := range tags {
		full, err := in.fullName(t)
		if err != nil {
			return err
		}
		if opt.Push || in.builtIn(full) {
			push = append(push, full)
		} else {
			load = append(load, full)
		}
	}
	var result *build.Result
	if len(push) > 0 || len(load) == 0 {
		opt.Tags, opt.Push = push, len(push) > 0
		if result, err = client.Build(ctx, opt); err != nil {
			return err
		}
	}
	if len(load) > 0 {
		opt.Tags, opt.Push = load, false
		if result, err = loadBuild(ctx, client, image.NewClient(in.dataDir), opt); err != nil {
			return err
		}
	}
	if len(tags) == 0 {
		fmt.Fprintln(out, result.Digest)
		return nil
	}
	for _, name := range append(push, load...) {
		fmt.Fprintf(out, "%s@%s\n", name, result.Digest)
	}
	return nil
}

// loadBuild streams the built image into this machine's images.
func loadBuild(ctx context.Context, client *build.Client, images *image.Client, opt build.Options) (*build.Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, w := io.Pipe()
	loaded := make(chan error, 1)
	go func() {
		_, err := images.Import(ctx, r, opt.Tags[0])
		_ = r.CloseWithError(err) // of a pipe in memory: never fails
		if err != nil {
			cancel(err)
		}
		loaded <- err
	}()
	opt.Archive = w
	result, err := client.Build(ctx, opt)
	if err != nil {
		_ = w.CloseWithError(err)
		if loadErr := <-loaded; errors.Is(err, context.Canceled) && loadErr != nil {
			return nil, loadErr
		}
		return nil, err
	}
	_ = w.Close() // the builder has closed it already
	return result, <-loaded
}

// buildArgs reads NAME=VALUE, and NAME alone from the environment.
func buildArgs(args []string) (map[string]string, error) {
	out := map[string]string{}
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		if k == "" {
			return nil, usageError{fmt.Errorf("--build-arg %q: want NAME=VALUE or NAME", a)}
		}
		if !ok {
			if v, ok = os.LookupEnv(k); !ok {
				continue // as docker does: an unset variable passes nothing
			}
		}
		out[k] = v
	}
	return out, nil
}

// parseSecrets reads docker's form: id=ID,src=FILE or id=ID,env=NAME.
func parseSecrets(args []string) ([]build.Secret, error) {
	var out []build.Secret
	for _, a := range args {
		var s build.Secret
		for _, part := range strings.Split(a, ",") {
			k, v, _ := strings.Cut(part, "=")
			switch k {
			case "id":
				s.ID = v
			case "src", "source":
				s.File = v
			case "env":
				s.Env = v
			case "type":
				// file or env, which src and env say already
			default:
				return nil, usageError{fmt.Errorf("--secret %q: %q is not id, src or env", a, k)}
			}
		}
		if s.ID == "" {
			return nil, usageError{fmt.Errorf("--secret %q: want id=ID,src=FILE or id=ID,env=NAME", a)}
		}
		if s.File == "" && s.Env == "" {
			if _, set := os.LookupEnv(s.ID); set {
				s.Env = s.ID
			} else {
				s.File = s.ID
			}
		}
		out = append(out, s)
	}
	return out, nil
}
