package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"text/template"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/services/gateway"
	"github.com/gantryhq/gantry/services/metrics"
	"github.com/gantryhq/gantry/services/scale"
	"github.com/gantryhq/gantry/services/trust"
)

// manifestsText is what only a cluster needs; the rest is printed from where `gantry serve`
// has it, too.
//
//go:embed manifests.yaml
var manifestsText string

// newManifestsCommand prints what runs the services on a cluster.
func newManifestsCommand() *cobra.Command {
	var image string
	var kinds bool
	c := &cobra.Command{
		Use:   "manifests",
		Short: "Print the manifests that run gateway, scaling, metrics and content trust on a cluster",
		Long: "Prints kinds, roles, Deployments and Services for a Kubernetes cluster: the same services that\n" +
			"`gantry serve` runs on this machine. The kinds go first, because the rest needs them:\n\n" +
			"  gantry manifests --kinds | kubectl apply --server-side -f -\n" +
			"  gantry manifests --image registry.example.com/gantry:1.0 | kubectl apply -f -",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if kinds {
				return gateway.WriteKinds(c.OutOrStdout())
			}
			if image == "" {
				return usageError{hint.Wrap(fmt.Errorf("--image is missing: the image with the gantry program"), "build one with deploy/Dockerfile, or print the kinds with --kinds")}
			}
			if _, err := reference.ParseNormalizedNamed(image); err != nil {
				return usageError{fmt.Errorf("--image %q: %w", image, err)}
			}
			return writeManifests(c.OutOrStdout(), image)
		},
	}
	c.Flags().StringVar(&image, "image", "", "image with the gantry program as its entry point")
	c.Flags().BoolVar(&kinds, "kinds", false, "print the definitions of the kinds instead")
	return c
}

func writeManifests(w io.Writer, image string) error {
	var all bytes.Buffer
	all.Write(gateway.Defaults())
	for _, o := range append(metrics.Registration(), scale.Role(), metrics.Role(), trust.Role(), trust.SecretsRole()) {
		text, err := yaml.Marshal(o)
		if err != nil {
			return fmt.Errorf("write manifests: %w", err)
		}
		fmt.Fprintf(&all, "---\n%s", text)
	}
	all.WriteString("---\n")
	t, err := template.New("manifests").Parse(manifestsText)
	if err == nil {
		err = t.Execute(&all, struct {
			Image    string
			Services []string
		}{image, []string{"gateway", "scale", "metrics", "trust"}})
	}
	if err != nil {
		return fmt.Errorf("write manifests: %w", err)
	}
	_, err = all.WriteTo(w)
	return err
}
