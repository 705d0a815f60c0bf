package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/gantryhq/gantry/internal/apiclient"
	"github.com/gantryhq/gantry/services/gateway/controller"
	"github.com/gantryhq/gantry/services/gateway/eventloop"
	"github.com/gantryhq/gantry/services/gateway/guard"
	"github.com/gantryhq/gantry/services/gateway/proxy"
)

// Run serves until ctx ends, then closes its ports, lets requests in flight
// finish and returns nil. If a successor has been started at the same Admin
// socket, it keeps listening until that one is ready, and connections until their
// clients have used them once more. It returns an error if it cannot start, or if
// requests were cut because they took longer than DrainTimeout.
//
// Run listens only once it has read the routes, so that a successor never
// answers for routes it does not know yet. Without an API it waits for one.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	kube, gateways, own, err := clients(cfg.Client)
	if err != nil {
		return fmt.Errorf("connect to the API: %w", err)
	}
	accessLog, err := openLog(cfg.AccessLog, cfg.AccessLogRotation)
	if err != nil {
		return err
	}
	var logTo io.Writer
	if accessLog != nil {
		defer accessLog.Close()
		logTo = accessLog
	}
	registry := prometheus.NewRegistry()
	proxyConfig := cfg.proxyConfig(logTo)
	proxyConfig.Registry = registry
	state, err := openState(cfg.State)
	if err != nil {
		return err
	}
	defer state.close()
	proxyConfig.Audit = state.audit
	if cfg.TakeOver {
		if proxyConfig.Inherited, err = inherit(cfg.Admin); err != nil {
			cfg.Log.Warn("the older gateway hands over no sockets; binding the same ports beside it", "error", err)
		}
	}
	var control *controller.Controller
	guards := guard.NewKeeper(guard.KeeperConfig{Fetch: fetchKeys, Log: cfg.Log, Changed: func() { control.PoliciesChanged() }})
	defer guards.Close()
	if err := state.load(guards); err != nil {
		cfg.Log.Warn("quotas begin anew", "error", err)
	}
	state.register(registry, guards)
	proxyConfig.Guards = guards
	dataPlane, err := proxy.New(proxyConfig)
	if err != nil {
		return err
	}
	control, err = controller.New(controller.Config{
		Kube: kube, Gateway: gateways, Own: own, Proxy: dataPlane, Addresses: cfg.Addresses, AddressPool: cfg.AddressPool, Log: cfg.Log,
	})
	if err != nil {
		return err
	}
	admin, err := startAdmin(cfg.Admin, registry, dataPlane, control.Ready())
	if err != nil {
		return err
	}
	defer admin.Close()

	// The controller goes on while a successor takes over.
	following, stopFollowing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopFollowing()
	go state.keep(ctx, guards, cfg.Log)
	failed := make(chan error, 1)
	var controlling sync.WaitGroup
	controlling.Go(func() { failed <- control.Run(following) })
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	farewell := eventloop.Farewell
	if admin.awaitSuccessor() {
		farewell = proxyConfig.IdleTimeout
	}
	select {
	case <-control.Ready():
		control.Retire()
	default:
		stopFollowing()
		controlling.Wait()
	}
	defer controlling.Wait()
	defer stopFollowing()
	cfg.Log.Info("gateway drains", "timeout", cfg.DrainTimeout, "farewell", farewell)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell+cfg.DrainTimeout)
	defer cancel()
	return dataPlane.Shutdown(drain, farewell, cfg.Hurry)
}

// idleTimeout is how long connections may stay unused, also those of a gateway whose
// successor has taken over. Nobody waits for that process; a client that uses its
// connections at all does so meanwhile, and is told that it was the last time. To close
// them earlier would fail a request that is sent at the same moment.
const idleTimeout = 75 * time.Second

// clients returns the client sets over one patient connection: protobuf for
// built-in kinds, JSON for custom resources, which know nothing else.
func clients(cfg *rest.Config) (kubernetes.Interface, gatewayclient.Interface, *apiclient.Client, error) {
	patient := rest.CopyConfig(cfg)
	patient.Wrap(waitForAPI)
	patient.UserAgent = "gantry-gateway"
	patient.QPS = -1 // the number of objects bounds what is sent
	patient.ContentType = runtime.ContentTypeJSON
	gateways, errGateways := gatewayclient.NewForConfig(patient)
	own, errOwn := apiclient.New(patient)

	compact := rest.CopyConfig(patient)
	compact.ContentType = runtime.ContentTypeProtobuf
	compact.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	kube, errKube := kubernetes.NewForConfig(compact)
	return kube, gateways, own, errors.Join(errGateways, errOwn, errKube)
}
