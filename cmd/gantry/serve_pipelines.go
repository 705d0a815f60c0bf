package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/services/build"
	"github.com/gantryhq/gantry/services/pipeline"
)

// pipelineOptions are the operator's.
type pipelineOptions struct {
	parallel int
	local    bool
}

func (o pipelineOptions) check() error {
	if o.parallel < 1 {
		return fmt.Errorf("--pipeline-parallel %d: at least one build must run at a time", o.parallel)
	}
	return nil
}

// startPipelines carries out Builds, and answers for their logs in the API.
func startPipelines(ctx context.Context, in *server) error {
	builder, err := newPipelineBuilder(in)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s, err := pipeline.New(pipeline.Config{
		Client:   in.api.ClientConfig(pipeline.User),
		As:       in.api.AccountConfig,
		Dir:      filepath.Join(in.dataDir, "pipeline"),
		Builder:  builder,
		Parallel: in.pipelines.parallel, LocalRepositories: in.pipelines.local,
		Load: applicationLoader{program: self, registry: in.registryAddr}.load,
		// Pods and the gateway reach it there, nobody else.
		Webhooks: func() (net.Listener, error) {
			return net.Listen("tcp", net.JoinHostPort(in.plan.Gateway().String(), "0"))
		},
	})
	if err != nil {
		return err
	}
	in.api.ServeExtension(pipeline.Namespace, pipeline.Name, s)
	if err := pipeline.Ensure(ctx, in.installer()); err != nil {
		return err
	}
	in.background("pipelines", s.Run)
	return nil
}

// newPipelineBuilder builds with this machine's worker and signs with the
// installation's key, as `gantry up` does.
func newPipelineBuilder(in *server) (*pipelineBuilder, error) {
	client, err := build.NewClient(build.ClientConfig{DataDir: in.dataDir})
	if err != nil {
		return nil, err
	}
	kube, err := kubernetes.NewForConfig(in.api.ClientConfig(pipeline.User))
	if err != nil {
		return nil, err
	}
	signer := &imageSigner{kube: func() (kubernetes.Interface, error) { return kube, nil }}
	return &pipelineBuilder{imageBuilder{
		instance: instance{registry: in.registryAddr, dataDir: in.dataDir}, client: client, signer: signer,
	}}, nil
}
