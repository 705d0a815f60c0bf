package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/gantryhq/gantry/services/registry"
	"github.com/gantryhq/gantry/services/registry/login"
	"github.com/gantryhq/gantry/services/registry/policy"
)

func startRegistry(ctx context.Context, in *server) error {
	if err := registry.EnsureRole(ctx, in.installer()); err != nil {
		return err
	}
	admin, err := kubernetes.NewForConfig(in.installer())
	if err != nil {
		return err
	}
	if err := login.EnsureRoles(ctx, admin); err != nil {
		return err
	}
	cluster, err := kubernetes.NewForConfig(in.api.ClientConfig(registry.User))
	if err != nil {
		return err
	}
	policies, err := policy.New(in.api.ClientConfig(registry.User), nil)
	if err != nil {
		return err
	}
	r, err := registry.New(registry.Config{DataDir: in.dataDir, Storage: in.registryBucket, Login: login.New(cluster), Policies: policies, Pushed: in.imagePushed, Register: legacyregistry.RawMustRegister})
	if err != nil {
		return err
	}
	l, err := registry.Listen(in.registryListen)
	if err != nil {
		return listenError(err, in.registryListen, "registry-listen")
	}
	in.registryAddr = l.Name
	in.registry.Store(r)
	in.serveAs("registry", l.Plain, &http.Server{Handler: r, ConnContext: login.ConnContext})
	if l.TLS != nil {
		certificate, err := in.registryTLS.source(in.api.ServerCertificate)
		if err != nil {
			return err
		}
		in.figures.follow("registry", certificate)
		secure := tls.NewListener(l.TLS, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: certificate})
		in.serveAs("registry with TLS", secure, &http.Server{Handler: r, ConnContext: login.ConnContext})
	}
	in.background("registry policies", func(ctx context.Context) error { return policies.Run(ctx, r) })
	in.background("registry collection", func(ctx context.Context) error { return r.KeepTidy(ctx, cluster) })
	return nil
}

// registryFile is where the built-in registry keeps content that the node asks it for.
func (in *server) registryFile(host, repository string, d digest.Digest) (string, bool) {
	r := in.registry.Load()
	if r == nil || host != in.registryAddr {
		return "", false
	}
	return r.File(repository, d)
}

// registryTLS names the files of a certificate, or none for one of the instance's own.
type registryTLS struct {
	cert, key string
}

func (t registryTLS) check() error {
	if (t.cert == "") != (t.key == "") {
		return errors.New("--registry-tls-cert and --registry-tls-key belong together")
	}
	return nil
}

// certificateAge is how long a certificate is used before it is read or issued again.
const certificateAge = time.Hour

// source returns a tls.Config.GetCertificate that follows changed files, or changed
// addresses of this machine.
func (t registryTLS) source(issue func(commonName string, names []string) (*tls.Certificate, error)) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	get := func() (*tls.Certificate, error) { return issue("gantry-registry", machineNames()) }
	if t.cert != "" {
		get = func() (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(t.cert, t.key)
			return &c, err
		}
	}
	var mu sync.Mutex
	var current *tls.Certificate
	var since time.Time
	refresh := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if current != nil && time.Since(since) < certificateAge {
			return current, nil
		}
		next, err := get()
		if err != nil && current == nil {
			return nil, fmt.Errorf("certificate of the registry: %w", err)
		}
		if err == nil { // else the last one serves on
			current = next
		}
		since = time.Now()
		return current, nil
	}
	_, err := refresh(nil)
	return refresh, err
}

// machineNames are the names and addresses of this machine.
func machineNames() []string {
	names := []string{"localhost"}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return names
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			names = append(names, p.Addr().String())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
