package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker (`make build`).
var version = "dev"

func newVersionCommand() *cobra.Command {
	var output *string
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of Gantry and of what it speaks",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v := map[string]string{
				"gantry":     version,
				"kubernetes": moduleVersion("k8s.io/kubernetes"),
				"buildkit":   moduleVersion("github.com/moby/buildkit"),
				"gatewayAPI": moduleVersion("sigs.k8s.io/gateway-api"),
				"go":         runtime.Version(),
			}
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), v)
			}
			for _, k := range []string{"gantry", "kubernetes", "gatewayAPI", "buildkit", "go"} {
				fmt.Fprintf(c.OutOrStdout(), "%-12s%s\n", k, v[k])
			}
			return nil
		},
	}
	output = outputFlag(c)
	return c
}

// moduleVersion is the version of a dependency that this binary was built with.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return m.Version
		}
	}
	return "unknown"
}
