package main

import (
	"context"

	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/attest"
	"github.com/gantryhq/gantry/services/images"
)

// startImageFacts tells people what is known of the images in the registry.
func startImageFacts(ctx context.Context, in *server) error {
	if err := images.EnsureRoles(ctx, in.installer()); err != nil {
		return err
	}
	s, err := images.New(images.Config{
		Client: in.api.ClientConfig(images.User), Registry: in.registryAddr, User: sender,
		InstanceKey: func(ctx context.Context) (*attest.PublicKey, error) {
			kube, err := kubernetes.NewForConfig(in.installer())
			if err != nil {
				return nil, err
			}
			return attest.InstancePublicKey(ctx, kube)
		},
	})
	if err != nil {
		return err
	}
	return in.api.Mount(images.Prefix, s)
}
