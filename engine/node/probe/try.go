package probe

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	grpcprobe "k8s.io/kubernetes/pkg/probe/grpc"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	tcpprobe "k8s.io/kubernetes/pkg/probe/tcp"
)

// Exec runs a command in the probed container and returns its exit code and output.
type Exec func(ctx context.Context, command []string) (code int, output string, err error)

// Prober tries handlers over the network with upstream's probers, or as they do.
type Prober struct {
	http httpprobe.Prober
	tcp  connector
	grpc grpcprobe.Prober
}

// NewProber returns a Prober. It may be used concurrently.
func NewProber() *Prober {
	return &Prober{http: httpprobe.New(false), tcp: connector{tcpprobe.New()}, grpc: grpcprobe.New()}
}

// Try returns the function that tries spec once. Exec is used for exec handlers.
func (p *Prober) Try(spec *v1.Probe, c *v1.Container, podIP string, exec Exec) func(ctx context.Context) Result {
	return func(ctx context.Context) Result {
		timeout := time.Second
		if at, ok := ctx.Deadline(); ok {
			timeout = time.Until(at)
		}
		switch {
		case spec.Exec != nil:
			return tryExec(ctx, spec.Exec.Command, exec)
		case spec.HTTPGet != nil:
			req, err := httpprobe.NewRequestForHTTPGetAction(spec.HTTPGet, c, podIP, "probe")
			if err != nil {
				return Result{Err: err}
			}
			return result(p.http.Probe(req, timeout))
		case spec.TCPSocket != nil:
			port, err := probe.ResolveContainerPort(spec.TCPSocket.Port, c)
			if err != nil {
				return Result{Err: err}
			}
			return result(p.tcp.Probe(hostOr(spec.TCPSocket.Host, podIP), port, timeout))
		case spec.GRPC != nil:
			service := ""
			if spec.GRPC.Service != nil {
				service = *spec.GRPC.Service
			}
			return result(p.grpc.Probe(podIP, service, int(spec.GRPC.Port), timeout))
		}
		return Result{Err: errors.New("missing probe handler")}
	}
}

func tryExec(ctx context.Context, command []string, exec Exec) Result {
	code, out, err := exec(ctx, command)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return Result{Output: fmt.Sprintf("command timed out: %q", command)}
	case err != nil:
		return Result{Err: err}
	}
	return Result{OK: code == 0, Output: out}
}

func result(r probe.Result, output string, err error) Result {
	if err != nil {
		return Result{Err: err}
	}
	return Result{OK: r == probe.Success || r == probe.Warning, Warned: r == probe.Warning, Output: output}
}

func hostOr(host, podIP string) string {
	if host != "" {
		return host
	}
	return podIP
}
