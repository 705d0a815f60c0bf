package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/gantryhq/gantry/engine/apiserver"
	"github.com/gantryhq/gantry/engine/host"
	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/engine/network"
	"github.com/gantryhq/gantry/engine/node"
	"github.com/gantryhq/gantry/engine/store"
	"github.com/gantryhq/gantry/internal/footprint"
	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/librarylog"
	"github.com/gantryhq/gantry/services/alerts"
	"github.com/gantryhq/gantry/services/anomaly"
	"github.com/gantryhq/gantry/services/registry"
	"github.com/gantryhq/gantry/services/scan"
	"github.com/gantryhq/gantry/services/trust"
)

// component is one part of a running Gantry. Start returns when the part can be
// used; what goes on afterwards it hands to server.background.
type component struct {
	name  string
	start func(context.Context, *server) error
}

// components is the table of contents of `gantry serve`, in the order of start.
var components = []component{
	{"store", startStore},
	{"api", startAPI},
	{"gateway kinds", startGatewayKinds},
	{"figures", startFigures},
	{"trust", startTrust},
	{"network", startNetwork},
	{"images", startImages},
	{"registry", startRegistry},
	{"controllers", startControllers},
	{"logs", startLogs},
	{"node", startNode},
	{"gateway", startGateway},
	{"scaling", startScaling},
	{"metrics", startMetrics},
	{"alerts", startAlerts},
	{"scanning", startScanning},
	{"image facts", startImageFacts},
	{"pipelines", startPipelines},
	{"anomaly detection", startAnomaly},
	{"monitor", startMonitor},
	{"docker", startDocker},
	{"audit", startAudit},
	{"console", startConsole},
	{"addresses", publishAddresses},
	{"backups", startBackups},
}

// serveOptions are the flags of `gantry serve`.
type serveOptions struct {
	dataDir        string
	apiListen      string
	gatewayListen  string
	gatewayTLS     string
	gatewayFlags   []string // further flags of `gantry gateway`
	registryListen string
	registryBucket string
	pipelines      pipelineOptions
	registryTLS    registryTLS
	dockerListen   string
	nodeName       string
	runtime        string            // handler of pods without a RuntimeClass
	ociRuntimes    map[string]string // further handlers and their programs
	podCIDR        netip.Prefix
	serviceCIDR    netip.Prefix
	monitor        monitorOptions
	logs           logsOptions
	without        []string // components that are not started
	verbose        bool
}

func newServeCommand(g *globals) *cobra.Command {
	o := serveOptions{}
	var podCIDR, serviceCIDR, addressPool string
	var proxyProtocol []string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the platform on this machine, in the foreground",
		Long: "Runs the API, the controllers, the node, cluster DNS, the registry and the gateway.\n" +
			"All state is under the data directory. Containers outlive this process: stop it, and\n" +
			"applications run on; `gantry down --all` stops them.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.dataDir = g.dir()
			err := errors.Join(
				parsePrefix("pod-cidr", podCIDR, &o.podCIDR), parsePrefix("service-cidr", serviceCIDR, &o.serviceCIDR),
				checkAddress("api-listen", o.apiListen), checkAddress("registry-listen", o.registryListen), checkAddress("docker-listen", o.dockerListen),
				checkAddress("gateway-listen", o.gatewayListen), checkAddress("gateway-tls-listen", o.gatewayTLS), o.registryTLS.check(), o.monitor.check(), o.logs.check(), o.pipelines.check())
			if err != nil {
				return usageError{err}
			}
			if o.gatewayFlags, err = gatewayFlags(addressPool, proxyProtocol); err != nil {
				return usageError{err}
			}
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return serve(ctx, o, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&o.apiListen, "api-listen", apiserver.DefaultListen, "address of the Kubernetes API")
	f.StringVar(&o.gatewayListen, "gateway-listen", "", "address of the gateway's plain HTTP (default :80, or :8080 when that is taken)")
	f.StringVar(&o.gatewayTLS, "gateway-tls-listen", "", "address of the gateway's HTTPS (default :443, or :8443 when that is taken)")
	f.StringVar(&addressPool, "gateway-address-pool", "", "network of this machine's addresses, of which each further Gateway gets one of its own")
	f.StringSliceVar(&proxyProtocol, "gateway-proxy-protocol-from", nil, "network of load balancers whose connections to the gateway begin with the PROXY protocol")
	f.IntVar(&o.pipelines.parallel, "pipeline-parallel", 2, "builds of pipelines that run at a time; others wait in a queue")
	f.BoolVar(&o.pipelines.local, "pipeline-local-repositories", false, "let pipelines fetch from loopback and link-local addresses, where this machine's own programs are")
	f.StringVar(&o.registryListen, "registry-listen", "127.0.0.1:5000", "address of the image registry; one that is not loopback has TLS and a login")
	f.StringVar(&o.registryBucket, "registry-bucket", "", "S3 bucket for the images of the registry, such as s3://images/registry?endpoint=https://minio:9000 (default the data directory)")
	f.StringVar(&o.registryTLS.cert, "registry-tls-cert", "", "certificate of the image registry, PEM (default one of the instance's own authority)")
	f.StringVar(&o.registryTLS.key, "registry-tls-key", "", "key of the image registry's certificate, PEM")
	f.StringVar(&o.dockerListen, "docker-listen", "", "address of the Docker API for remote clients with an administrator's certificate, such as :2376 (default none)")
	f.StringVar(&o.nodeName, "node-name", "", "name of the node (default the host name)")
	f.StringVar(&o.runtime, "runtime", defaultRuntime, "what runs the containers of pods without a RuntimeClass")
	f.StringToStringVar(&o.ociRuntimes, "oci-runtime", nil, "further OCI runtime: RuntimeClass handler and program, such as runsc=/opt/bin/runsc")
	f.StringVar(&podCIDR, "pod-cidr", "", "addresses of pods (default 10.244.0.0/16, or the next free one)")
	f.StringVar(&serviceCIDR, "service-cidr", "", "addresses of services (default 10.96.0.0/16, or the next free one)")
	o.monitor.addFlags(c)
	o.logs.addFlags(c)
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log more")
	f.StringSliceVar(&o.without, "without", nil, "components to leave out, to measure what they cost")
	_ = f.MarkHidden("without") // it is there
	return c
}

// gatewayFlags are the flags that the gateway's process gets as they are.
func gatewayFlags(addressPool string, proxyProtocol []string) ([]string, error) {
	var flags []string
	if addressPool != "" {
		if _, err := netip.ParsePrefix(addressPool); err != nil {
			return nil, fmt.Errorf("--gateway-address-pool: %w", err)
		}
		flags = append(flags, "--address-pool", addressPool)
	}
	if _, err := parseEach("gateway-proxy-protocol-from", proxyProtocol, netip.ParsePrefix); err != nil {
		return nil, err
	}
	for _, network := range proxyProtocol {
		flags = append(flags, "--proxy-protocol-from", network)
	}
	return flags, nil
}

func parsePrefix(flag, text string, to *netip.Prefix) (err error) {
	if text == "" {
		return nil
	}
	if *to, err = netip.ParsePrefix(text); err != nil {
		return fmt.Errorf("--%s %q is not an address range such as 10.244.0.0/16", flag, text)
	}
	return nil
}

func checkAddress(flag, text string) error {
	if text == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(text); err != nil {
		return fmt.Errorf("--%s %q is not an address such as 127.0.0.1:6443", flag, text)
	}
	return nil
}

// server is one running Gantry.
type server struct {
	serveOptions
	ctx     context.Context // ends when the instance stops
	group   *errgroup.Group
	close   []func() error // undone in reverse order at the end
	started atomic.Bool    // all components

	store        *store.Store
	plan         network.Plan
	unlockRanges func() error // other instances may choose address ranges again
	api          *apiserver.Server
	figures      figures
	network      *network.Network
	images       *image.Store
	node         *node.Node
	trust        *trust.Service
	alerts       *alerts.Service // or nil
	registryAddr string
	registry     atomic.Pointer[registry.Registry] // set once it has started
	scanning     atomic.Pointer[scan.Service]      // nil until it is started
	logsRunning  logsRunning
	anomaly      *anomaly.Service // or nil
	gatewayKinds <-chan error     // told once when the API serves the gateway's kinds
	gatewayAddr  gatewayAddresses
}

// serve runs all components until ctx ends or one of them fails.
func serve(ctx context.Context, o serveOptions, out io.Writer) (err error) {
	began := time.Now()
	footprint.Starting()
	if err := prepare(&o); err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(context.WithoutCancel(ctx))
	stopCtx, stop := context.WithCancel(groupCtx)
	in := &server{serveOptions: o, group: group, ctx: stopCtx}
	context.AfterFunc(ctx, func() { in.haltContainers(); stop() })
	in.figures.in = in
	defer func() {
		stop()
		err = errors.Join(err, in.stop())
	}()
	for _, c := range components {
		if slices.Contains(o.without, c.name) {
			continue
		}
		t := time.Now()
		if err := c.start(stopCtx, in); err != nil {
			if ctx.Err() != nil {
				return nil // asked to stop while starting
			}
			return fmt.Errorf("start %s: %w", c.name, err)
		}
		slog.Debug("component started", "component", c.name, "after", time.Since(t).Round(time.Millisecond))
	}
	in.started.Store(true)
	fmt.Fprintf(out, "gantry ready in %d ms\n", time.Since(began).Milliseconds())
	footprint.Limit(footprint.Bursts)
	if err := footprint.KeepSmall(stopCtx, footprint.Bursts); err != nil {
		slog.Warn("cannot give back memory", "err", err)
	}
	<-stopCtx.Done()
	return nil
}

// haltTime is what containers get at the most when the machine goes down, of the 90 s in
// which systemd wants it done.
const haltTime = 60 * time.Second

// haltContainers stops all containers, in an orderly way, if the machine goes down: nobody
// else would before it kills them. Otherwise they outlive this process.
func (in *server) haltContainers() {
	ctx, cancel := context.WithTimeout(in.ctx, haltTime+drainTime)
	defer cancel()
	if !in.started.Load() || !host.ShuttingDown(ctx) {
		return
	}
	slog.Info("the machine is shutting down: stopping all containers")
	if err := in.node.Halt(ctx, haltTime); err != nil {
		slog.Error("the machine is shutting down", "error", err)
	}
}

// background runs fn beside the other components; its failure stops the instance.
func (in *server) background(name string, fn func(context.Context) error) {
	in.group.Go(func() error {
		err := fn(in.ctx)
		if in.ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		return fmt.Errorf("run %s: %w", name, err)
	})
}

// onStop runs fn when everything in the background has ended, last one first.
func (in *server) onStop(fn func() error) { in.close = append(in.close, fn) }

// stop waits for what runs in the background and closes what was opened.
func (in *server) stop() error {
	err := in.group.Wait()
	for i := len(in.close) - 1; i >= 0; i-- {
		err = errors.Join(err, in.close[i]())
	}
	return err
}

// prepare checks the host, makes the data directory and sends logs to stderr.
func prepare(o *serveOptions) error {
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	slog.SetDefault(logger)
	klog.SetSlogLogger(o.upstreamLogger())
	librarylog.Redirect(logger)

	var err error
	if o.dataDir, err = filepath.Abs(o.dataDir); err != nil {
		return fmt.Errorf("resolve data directory: %w", err)
	}
	for _, r := range host.Check(o.dataDir) {
		if !r.OK && r.Level == host.Required {
			return hint.Wrap(fmt.Errorf("this machine cannot run Gantry yet: %s: %s", r.Name, r.Detail), "%s (all checks: gantry doctor)", r.Remedy)
		}
	}
	if err := os.MkdirAll(filepath.Join(o.dataDir, "run"), 0o711); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if o.nodeName == "" {
		if o.nodeName, err = os.Hostname(); err != nil {
			return fmt.Errorf("find this machine's name: %w", err)
		}
	}
	return nil
}
