package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/gantryhq/gantry/engine/apiserver"
	"github.com/gantryhq/gantry/engine/controllers"
	"github.com/gantryhq/gantry/engine/dockerapi"
	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/engine/network"
	"github.com/gantryhq/gantry/engine/node"
	"github.com/gantryhq/gantry/engine/shim"
	"github.com/gantryhq/gantry/engine/store"
	"github.com/gantryhq/gantry/services/console"
)

func startStore(_ context.Context, in *server) (err error) {
	in.store, err = store.Open(filepath.Join(in.dataDir, "state.db"), store.Options{})
	if err != nil {
		return restoreHint(err, in.dataDir)
	}
	in.onStop(in.store.Close)
	return recordServe(in.dataDir) // only now: the store's lock makes us the one
}

func startAPI(ctx context.Context, in *server) (err error) {
	if in.unlockRanges, err = network.LockRanges(ctx); err != nil {
		return err
	}
	if in.plan, err = network.MakePlan(in.dataDir, in.podCIDR, in.serviceCIDR); err != nil {
		return err
	}
	audit, err := openAuditLog(in)
	if err != nil {
		return err
	}
	in.api, err = apiserver.New(ctx, apiserver.Config{
		Store: in.store, DataDir: in.dataDir, Listen: in.apiListen, Audit: audit, Home: console.Prefix,
		AdvertiseAddress: in.plan.Gateway(), ServiceCIDR: in.plan.ServiceCIDR,
		DialNode: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", in.nodeSocket())
		},
	})
	if errors.Is(err, syscall.EADDRINUSE) {
		return listenError(err, in.apiListen, "api-listen")
	}
	if err != nil {
		return err
	}
	in.background("api", in.api.Serve)
	return in.api.WriteKubeconfig(filepath.Join(in.dataDir, "kubeconfig"), "gantry-admin", []string{"system:masters"})
}

func startNetwork(ctx context.Context, in *server) (err error) {
	in.network, err = network.Open(network.Config{
		Client: in.api.ClientConfig("system:gantry:network"), DataDir: in.dataDir,
		PodCIDR: in.plan.PodCIDR, ServiceCIDR: in.plan.ServiceCIDR,
		Register: legacyregistry.RawMustRegister,
		Keeper:   shim.New(filepath.Join(in.dataDir, "run"), nil), // asked only while it runs
	})
	if err != nil {
		return err
	}
	in.onStop(in.network.Close)
	if err := in.unlockRanges(); err != nil {
		return err
	}
	in.background("network", in.network.Run)
	return nil
}

func startImages(_ context.Context, in *server) (err error) {
	in.images, err = image.Open(image.Config{DataDir: in.dataDir, File: in.registryFile})
	if err != nil {
		return err
	}
	in.onStop(in.images.Close)
	return in.serveSocket("images", filepath.Join(in.dataDir, "run", image.SocketName), in.images.Handler())
}

func startControllers(ctx context.Context, in *server) error {
	c, err := controllers.New(controllers.Config{
		Client: func(component string) *rest.Config {
			user, groups := controllers.Identity(component)
			return in.api.ClientConfig(user, groups...)
		},
		DataDir: in.dataDir, CABundle: in.api.CABundle(), Logger: in.upstreamLogger(),
	})
	if err != nil {
		return err
	}
	in.background("controllers", c.Run)
	return waitReady(ctx, c.Ready())
}

func startNode(ctx context.Context, in *server) error {
	driver, handlers, err := in.openDriver()
	if err != nil {
		return err
	}
	cfg := node.Config{
		Client:  in.api.ClientConfig("system:node:"+in.nodeName, "system:nodes"),
		DataDir: in.dataDir, NodeName: in.nodeName, NodeIP: in.network.NodeIP(),
		Driver: driver, Images: in.images, Network: in.network,
		Handlers: handlers, DefaultHandler: in.runtime, Version: version, BeforeLogsGo: in.drainLogs,
		ExtrasNamespace: dockerapi.Namespace,
	}
	if in.trust != nil {
		cfg.Admit = in.trust.Check
	}
	n, err := node.New(cfg)
	if err != nil {
		return err
	}
	in.node = n
	if err := in.serveSocket("node", in.nodeSocket(), n.Handler()); err != nil {
		return err
	}
	in.background("node", n.Run)
	if err := in.ensureRuntimeClasses(ctx, handlers); err != nil {
		return err
	}
	return waitReady(ctx, n.Ready())
}

func waitReady(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// nodeSocket is where the node agent answers the API server.
func (in *server) nodeSocket() string { return filepath.Join(in.dataDir, "run", "node.sock") }

// serveSocket answers on a unix socket that only root may use.
func (in *server) serveSocket(name, path string, h http.Handler) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	in.serveHTTP(name, l, h)
	return nil
}

// serveHTTP answers on l until the instance stops.
func (in *server) serveHTTP(name string, l net.Listener, h http.Handler) {
	in.serveAs(name, l, &http.Server{Handler: h})
}

// serveAs answers on l as a server is configured, until the instance stops.
func (in *server) serveAs(name string, l net.Listener, answering *http.Server) {
	answering.ReadHeaderTimeout, answering.IdleTimeout = 10*time.Second, 2*time.Minute
	in.background(name, func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = answering.Close() })
		defer stop()
		return answering.Serve(l)
	})
}
