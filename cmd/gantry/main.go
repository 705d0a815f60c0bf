// Command gantry turns one Linux machine into a platform for microservices.
//
// It is the only place that sees both halves: the engine (Kubernetes refitted
// for one machine) and the services (which run on any cluster). commandGroups
// below and the component list in serve.go are the table of contents of the
// whole program.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/internal/hint"
)

func main() {
	err := newRootCommand().Execute()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	if h := hint.Of(err); h != "" {
		fmt.Fprintln(os.Stderr, "hint:", h)
	}
	var usage usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") {
		os.Exit(2)
	}
	os.Exit(1)
}

func commandGroups(g *globals) map[string][]*cobra.Command {
	return map[string][]*cobra.Command{
		"run": {
			newServeCommand(g),
			newUpCommand(g),
			newDownCommand(g),
			newGatewayCommand(g),
			newScaleCommand(g),
			newMetricsCommand(g),
			newManifestsCommand(),
			newTrustCommand(g),
			newBackupCommand(g),
		},
		"deliver": {
			newBuildCommand(g),
			newBuildWorkerCommand(g),
			newPipelineCommand(g),
			newPipelineLoadCommand(),
			newRollbackCommand(g),
			newBaseCommand(g),
			newScanCommand(g),
			newScanWorkerCommand(),
			newImagesCommand(g),
			newPullCommand(g),
			newPushCommand(g),
			newRemoveImageCommand(g),
			newRegistryCommand(g),
			newSignCommand(g),
			newAttestCommand(g),
			newVerifyCommand(g),
			newKeysCommand(g),
		},
		"look": {
			newStatusCommand(g),
			newStatsCommand(g),
			newLogsCommand(g),
			newTimelineCommand(g),
			newAlertsCommand(g),
			newAnomaliesCommand(g),
			newConsoleCommand(g),
			newDoctorCommand(g),
			newVersionCommand(),
		},
	}
}
