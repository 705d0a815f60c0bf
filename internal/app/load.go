package app

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/compose-spec/compose-go/v2/cli"

	"github.com/gantryhq/gantry/internal/hint"
)

// Options change how an application is read.
type Options struct {
	Name     string            // instead of the name in the file or of the folder
	Files    []string          // further Compose files, laid over the first
	Profiles []string          // Compose profiles to enable
	EnvFiles []string          // instead of .env beside the Compose file
	Args     map[string]string // build arguments for every image
	Env      []string          // environment for ${VARIABLE}s, as os.Environ
}

const imagesFile = "gantry.yaml"

// Load reads the application at path: a Compose file, a folder with one, or a
// folder of Kubernetes manifests.
func Load(ctx context.Context, path string, opt Options) (*Application, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find application %q: %w", path, err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return nil, hint.Wrap(fmt.Errorf("find application %q: %w", path, err),
			"name a Compose file, or a folder with compose.yaml or Kubernetes manifests")
	}
	app := &Application{Source: abs}
	switch compose := composeFile(abs, info); {
	case compose != "":
		err = loadCompose(ctx, app, compose, opt)
	case info.IsDir():
		if err = loadManifests(app, abs, opt); err == nil {
			err = app.checkImages()
		}
	default:
		err = hint.Wrap(fmt.Errorf("%s is not a Compose file: its name must end in .yaml or .yml", path),
			"to deploy Kubernetes manifests name the folder they are in")
	}
	if err != nil {
		return nil, err
	}
	for i := range app.Images {
		for name, value := range opt.Args {
			if app.Images[i].Build.Args == nil {
				app.Images[i].Build.Args = map[string]string{}
			}
			app.Images[i].Build.Args[name] = value
		}
	}
	return app, nil
}

// composeFile returns the Compose file that path means, or "".
func composeFile(path string, info os.FileInfo) string {
	if !info.IsDir() {
		if ext := filepath.Ext(path); ext == ".yaml" || ext == ".yml" {
			return path
		}
		return ""
	}
	i := slices.IndexFunc(cli.DefaultFileNames, func(name string) bool {
		_, err := os.Stat(filepath.Join(path, name))
		return err == nil
	})
	if i < 0 {
		return ""
	}
	return filepath.Join(path, cli.DefaultFileNames[i])
}

// displayPath is a path the way a person at a terminal would write it.
func displayPath(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(wd, path)
	if err != nil || len(rel) > len(path) {
		return path
	}
	return rel
}
