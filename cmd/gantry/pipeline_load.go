package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/internal/app"
	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/services/build"
)

// nobody is the user that reads applications from repositories.
const nobody = 65534

// applicationLoader reads an application in a process of its own, whose root
// directory is the checkout: whatever a Compose file names, no file of this machine
// is read.
type applicationLoader struct{ program, registry string }

func (l applicationLoader) load(ctx context.Context, checkout, path, namespace string) (*app.Application, error) {
	cmd := exec.CommandContext(ctx, l.program, "pipeline-load", "--root", checkout, "--name", namespace, filepath.Join("/", path))
	cmd.Env = []string{build.RegistryArg + "=" + l.registry, "GODEBUG=" + os.Getenv("GODEBUG")}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		text, advice, _ := strings.Cut(strings.TrimSpace(complaint.String()), "\nhint: ")
		text = strings.TrimPrefix(text, "error: ")
		if text == "" {
			text = err.Error()
		}
		err = errors.New(text)
		if advice != "" {
			err = hint.Wrap(err, "%s", advice)
		}
		return nil, err
	}
	return app.Decode(out.Bytes())
}

// newPipelineLoadCommand is what the loader runs.
func newPipelineLoadCommand() *cobra.Command {
	var root, name string
	c := &cobra.Command{
		Use:    "pipeline-load --root DIR PATH",
		Short:  "Print the application at PATH of a checkout as JSON (used by pipelines)",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			// No way back: the environment has nothing in it, and what is read may be hostile.
			if err := errors.Join(syscall.Chroot(root), os.Chdir("/")); err != nil {
				return fmt.Errorf("enter the checkout: %w", err)
			}
			if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
				return fmt.Errorf("give up rights: %w", err)
			}
			a, err := app.Load(c.Context(), args[0], app.Options{Name: name, Env: os.Environ()})
			if err != nil {
				return err
			}
			text, err := a.Encode()
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(text)
			return err
		},
	}
	c.Flags().StringVar(&root, "root", "", "the checkout")
	c.Flags().StringVar(&name, "name", "", "name of the application, and its namespace")
	return c
}
