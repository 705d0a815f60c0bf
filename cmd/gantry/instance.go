package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/distribution/reference"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/platform"
)

const (
	builtInRegistry = "127.0.0.1:5000" // unless serve was told otherwise
	askPatience     = 2 * time.Second
)

// instance is where the image commands work: the registry and the data
// directory of the Gantry that the command line means.
type instance struct {
	registry string // host:port of the built-in registry
	dataDir  string
}

// findInstance asks the running Gantry. One that does not run, or does not say,
// is taken to use the defaults: building and making base images need only its registry.
func findInstance(ctx context.Context, g *globals) instance {
	in := instance{registry: builtInRegistry, dataDir: g.dir()}
	cfg, err := g.config()
	if err != nil {
		return in
	}
	cfg.Timeout = askPatience
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return in
	}
	info, err := platform.Read(ctx, kube)
	if err != nil {
		return in
	}
	if info.Registry != "" {
		in.registry = info.Registry
	}
	if g.dataDir == "" && info.DataDir != "" {
		in.dataDir = info.DataDir
	}
	return in
}

// fullName gives a name without a registry the built-in one, and one without a
// tag "latest": "shop/cart" is 127.0.0.1:5000/shop/cart:latest.
func (in instance) fullName(name string) (string, error) {
	if !hasRegistry(name) {
		name = in.registry + "/" + name
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", usageError{err}
	}
	return reference.TagNameOnly(named).String(), nil
}

// builtIn is whether a full name is in the built-in registry.
func (in instance) builtIn(full string) bool { return strings.HasPrefix(full, in.registry+"/") }

// hasRegistry is docker's rule: the first part of a name is a host when it has
// a dot or a colon, or is localhost.
func hasRegistry(name string) bool {
	host, _, ok := strings.Cut(name, "/")
	return ok && (strings.ContainsAny(host, ".:") || host == "localhost")
}

func writeJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// socketClient speaks HTTP to a unix socket, whatever host a request names.
func socketClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
}
