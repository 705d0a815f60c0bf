package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/gantryhq/gantry/internal/hint"
)

const defaultDataDir = "/var/lib/gantry"

// globals are the flags every command shares: they say which Gantry is meant.
type globals struct {
	dataDir    string
	kubeconfig string
}

// config returns the client configuration of the instance that the command
// line means: --data-dir, else --kubeconfig or KUBECONFIG, else in a pod its
// cluster's, else the default data directory.
func (g *globals) config() (*rest.Config, error) {
	if g.dataDir == "" && g.kubeconfig == "" && os.Getenv("KUBECONFIG") == "" {
		if cfg, err := rest.InClusterConfig(); err == nil { // in a pod
			cfg.QPS, cfg.Burst = 200, 400
			return cfg, nil
		}
	}
	path, err := g.kubeconfigPath()
	if err != nil {
		return nil, err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	cfg.QPS, cfg.Burst = 200, 400
	return cfg, nil
}

// kubeconfigPath finds the kubeconfig as config describes.
func (g *globals) kubeconfigPath() (string, error) {
	path := g.kubeconfig
	switch {
	case g.dataDir != "":
		path = filepath.Join(g.dataDir, "kubeconfig")
	case path == "":
		path = os.Getenv("KUBECONFIG")
	}
	if path == "" {
		path = filepath.Join(defaultDataDir, "kubeconfig")
	}
	if _, err := os.Stat(path); err != nil {
		return "", hint.Wrap(fmt.Errorf("find a running Gantry: %w", err),
			"start one with `gantry serve`, or name it with --data-dir or KUBECONFIG")
	}
	return path, nil
}

// dir is the data directory, also for commands that need no API.
func (g *globals) dir() string {
	if g.dataDir != "" {
		return g.dataDir
	}
	return defaultDataDir
}

// usageError marks bad command lines: exit status 2 instead of 1.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func newRootCommand() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:   "gantry",
		Short: "One Linux machine as the whole platform for microservices in containers",
		Long: "Gantry runs microservices in containers on one Linux machine: build, registry,\n" +
			"gateway, discovery, orchestration. kubectl, docker and helm talk to it.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().StringVar(&g.dataDir, "data-dir", "", "data directory of the instance (default "+defaultDataDir+")")
	root.PersistentFlags().StringVar(&g.kubeconfig, "kubeconfig", "", "kubeconfig of the instance or of any cluster")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{hint.Wrap(err, "see `%s --help`", c.CommandPath())}
	})
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Run:"},
		&cobra.Group{ID: "deliver", Title: "Build and deliver:"},
		&cobra.Group{ID: "look", Title: "Look:"},
	)
	for group, commands := range commandGroups(g) {
		for _, c := range commands {
			c.GroupID = group
			refuseArguments(c)
			root.AddCommand(c)
		}
	}
	return root
}

// refuseArguments makes wrong arguments of a command, and of those below it, bad
// command lines that name the remedy.
func refuseArguments(c *cobra.Command) {
	for _, sub := range c.Commands() {
		refuseArguments(sub)
	}
	accept := c.Args
	if accept == nil {
		return
	}
	c.Args = func(c *cobra.Command, args []string) error {
		err := accept(c, args)
		if err == nil || errors.As(err, new(usageError)) {
			return err
		}
		return usageError{hint.Wrap(fmt.Errorf("%s: wrong arguments: want `%s`", strings.Join(append([]string{c.CommandPath()}, args...), " "), c.UseLine()),
			"see `%s --help`", c.CommandPath())}
	}
}

// outputFlag adds --output to a command that prints for people unless told to
// print json. Anything else is refused before the command runs.
func outputFlag(c *cobra.Command) *string {
	output := c.Flags().StringP("output", "o", "", "json, for scripts")
	c.PreRunE = func(*cobra.Command, []string) error {
		if *output != "" && *output != "json" {
			return usageError{fmt.Errorf("--output %q: only json is known", *output)}
		}
		return nil
	}
	return output
}
