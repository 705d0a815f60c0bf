package controllers

import (
	"errors"
	"log/slog"

	"k8s.io/client-go/rest"
)

// Config says on whose behalf and where the controllers work.
type Config struct {
	// Client answers the client configuration of one component; Identity says
	// who that component is.
	Client func(component string) *rest.Config
	// DataDir holds the volumes, in the directory volumes.
	DataDir string
	// CABundle is published as the ConfigMap kube-root-ca.crt in every namespace.
	CABundle []byte
	// Logger receives the controllers' messages; nil means slog.Default().
	// What upstream logs as information is debugging here.
	Logger *slog.Logger
}

func (c *Config) complete() error {
	switch {
	case c.Client == nil:
		return errors.New("start controllers: no client configuration was given")
	case c.DataDir == "":
		return errors.New("start controllers: no data directory was given")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

// Components that are not controllers with a service account of their own.
const (
	componentShared    = "kube-controller-manager"
	componentScheduler = "kube-scheduler"
	componentVolumes   = "local-volumes"
)

// Identity answers the user name and groups of a component, as upstream's
// bootstrap roles know it.
func Identity(component string) (user string, groups []string) {
	switch component {
	case componentShared, componentScheduler:
		return "system:" + component, nil
	case componentVolumes:
		// Part of the engine like the API server itself, and bootstraps a
		// StorageClass, which no upstream role for volumes may.
		return "system:gantry:" + component, []string{"system:masters"}
	}
	return "system:serviceaccount:kube-system:" + component,
		[]string{"system:serviceaccounts", "system:serviceaccounts:kube-system"}
}
