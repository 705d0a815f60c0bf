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
	"time"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/internal/app"
	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/progress"
	"github.com/gantryhq/gantry/services/build"
)

const defaultUpTimeout = 5 * time.Minute

func newUpCommand(g *globals) *cobra.Command {
	var (
		load    app.Options
		deploy  app.DeployOptions
		args    []string
		check   bool
		timeout time.Duration
	)
	c := &cobra.Command{
		Use:   "up PATH",
		Short: "Build and run an application: a Compose file or a folder of manifests",
		Long: "Builds the application's images, pushes them to the built-in registry, signs and deploys it,\n" +
			"waits until everything is ready and prints where to find it. PATH is a Compose file,\n" +
			"a folder with compose.yaml, or a folder with Kubernetes manifests and, for images to\n" +
			"build, a gantry.yaml. Running it again changes only what changed. In a Compose file\n" +
			"${" + build.RegistryArg + "} is the built-in registry: image: ${" + build.RegistryArg + "}/base/busybox.",
		Example: "  gantry up examples/shop\n" +
			"  gantry up examples/shop -f examples/shop/compose.v2.yaml",
		Args: onePath,
		RunE: func(c *cobra.Command, paths []string) error {
			var err error
			if load.Args, err = keyValues("build-arg", args); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			load.Env = applicationEnv(ctx, g)
			deploy.Timeout = timeout
			return up(ctx, g, paths[0], load, deploy, check, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&load.Files, "file", "f", nil, "a further Compose file, laid over the first (repeatable)")
	f.StringVarP(&load.Name, "name", "p", "", "name of the application (default: the file's name: or the folder's)")
	f.StringArrayVar(&load.Profiles, "profile", nil, "enable services with this Compose profile (repeatable)")
	f.StringArrayVar(&load.EnvFiles, "env-file", nil, "variables for the Compose file, instead of .env (repeatable)")
	f.StringArrayVar(&args, "build-arg", nil, "NAME=VALUE for every image that is built (repeatable)")
	f.BoolVar(&deploy.NoCache, "no-cache", false, "build from scratch even what did not change")
	f.BoolVar(&check, "check", false, "only read the application and print its objects")
	f.DurationVar(&timeout, "timeout", defaultUpTimeout, "how long the application may take to become ready")
	return c
}

func up(ctx context.Context, g *globals, path string, load app.Options, deploy app.DeployOptions, check bool, out io.Writer) error {
	began := time.Now()
	application, err := app.Load(ctx, path, load)
	if err != nil {
		return err
	}
	for _, w := range application.Warnings {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
	if check {
		return application.Write(out)
	}
	cfg, err := g.config()
	if err != nil {
		return err
	}
	var builder *imageBuilder
	if len(application.Images) > 0 {
		if builder, err = newImageBuilder(ctx, g); err != nil {
			return err
		}
		deploy.Builder = builder
	}
	deploy.Display = progress.New(os.Stderr)
	result, err := app.Deploy(ctx, cfg, application, deploy)
	deploy.Display.Close()
	if builder != nil {
		if unsigned := builder.signer.unsigned(); unsigned != nil {
			fmt.Fprintln(os.Stderr, "warning:", unsigned)
		}
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return hint.Wrap(errors.New("interrupted"), "what was deployed so far stays: run the command again to finish, or `gantry down %s`", path)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(out, summary(application.Name, result, time.Since(began)))
	for _, url := range result.URLs {
		fmt.Fprintf(out, "  %s\n", url)
	}
	return nil
}

// applicationEnv is the environment for the variables of a Compose file: our own,
// and the built-in registry under the name that Dockerfiles know it by.
func applicationEnv(ctx context.Context, g *globals) []string {
	env := os.Environ()
	if os.Getenv(build.RegistryArg) == "" {
		env = append(env, build.RegistryArg+"="+findInstance(ctx, g).registry)
	}
	return env
}

// summary says in one line what an up did.
func summary(name string, r *app.Result, took time.Duration) string {
	what := "nothing to change"
	if n := len(r.Changed); n > 0 {
		what = fmt.Sprintf("%d changed", n)
	}
	if n := len(r.Removed); n > 0 {
		what += fmt.Sprintf(", %d removed", n)
	}
	return fmt.Sprintf("%s is ready (%s, %.1f s)", name, what, took.Seconds())
}

// onePath accepts exactly the path of an application.
func onePath(c *cobra.Command, args []string) error {
	if len(args) == 1 {
		return nil
	}
	return usageError{hint.Wrap(fmt.Errorf("%s takes one PATH, got %d", c.CommandPath(), len(args)),
		"name a Compose file or a folder: %s examples/shop", c.CommandPath())}
}

// keyValues reads NAME=VALUE arguments; NAME alone takes the environment's value.
func keyValues(flag string, pairs []string) (map[string]string, error) {
	values := map[string]string{}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			value, ok = os.LookupEnv(name)
		}
		if !ok || name == "" {
			return nil, usageError{fmt.Errorf("--%s %q is not NAME=VALUE", flag, pair)}
		}
		values[name] = value
	}
	return values, nil
}
