package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/gantryhq/gantry/engine/dockerapi"
	"github.com/gantryhq/gantry/services/build"
)

// startDocker answers the Docker Engine API on a socket, and for remote clients with a
// certificate of the instance's authority where --docker-listen says.
func startDocker(ctx context.Context, in *server) error {
	builder, err := build.NewClient(build.ClientConfig{DataDir: in.dataDir})
	if err != nil {
		return err
	}
	api, err := dockerapi.New(dockerapi.Config{
		Client:  in.api.ClientConfig(dockerapi.User),
		Ensure:  func(ctx context.Context) error { return dockerapi.Ensure(ctx, in.installer()) },
		Machine: in.node, Images: in.images, Builder: dockerBuilder{builder, in.registryAddr}, Login: registryLogin,
		DataDir: in.dataDir, PodCIDR: in.plan.PodCIDR, HostIP: in.plan.Gateway(), Version: version, Registry: in.registryAddr,
	})
	if err != nil {
		return err
	}
	in.background("docker", api.Run)
	path := filepath.Join(in.dataDir, dockerapi.SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	// Root and root's group, as dockerd's socket without a group of its own.
	if err := errors.Join(os.Chown(path, 0, 0), os.Chmod(path, 0o660)); err != nil {
		return errors.Join(err, l.Close())
	}
	in.serveHTTP("docker", l, api)
	if in.dockerListen == "" {
		return nil
	}
	return in.serveDockerTLS(api)
}

// serveDockerTLS answers administrators' clients from elsewhere: their certificate is of
// the instance's authority and names the group of administrators, as DIR/kubeconfig's does.
func (in *server) serveDockerTLS(api http.Handler) error {
	certificate, err := registryTLS{}.source(func(_ string, names []string) (*tls.Certificate, error) {
		return in.api.ServerCertificate("gantry-docker", names)
	})
	if err != nil {
		return err
	}
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(in.api.CABundle())
	l, err := net.Listen("tcp", in.dockerListen)
	if err != nil {
		return listenError(err, in.dockerListen, "docker-listen")
	}
	in.serveHTTP("docker with TLS", tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: certificate,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authorities, VerifyConnection: administratorsOnly,
	}), api)
	return nil
}

// administrators is the group that may do everything.
const administrators = "system:masters"

// administratorsOnly refuses others whom the authority has given a certificate: who speaks
// to the Docker API is root.
func administratorsOnly(state tls.ConnectionState) error {
	if leaf := state.PeerCertificates[0]; !slices.Contains(leaf.Subject.Organization, administrators) {
		return fmt.Errorf("the client certificate of %q is not an administrator's: the Docker API makes its users root", leaf.Subject.CommonName)
	}
	return nil
}

// dockerBuilder builds with the build worker.
type dockerBuilder struct {
	*build.Client
	registry string
}

func (b dockerBuilder) Build(ctx context.Context, of dockerapi.Build, display io.Writer, archive io.WriteCloser) error {
	_, err := b.Client.Build(ctx, build.Options{
		ContextDir: of.Dir, Dockerfile: filepath.Join(of.Dir, of.Dockerfile), Tags: []string{of.Name}, Target: of.Target,
		BuildArgs: of.Args, Labels: of.Labels, NoCache: of.NoCache, NoNetwork: of.NoNetwork, Registry: b.registry, Archive: archive, Display: display, Plain: true,
	})
	return err
}

// registryLogin asks a registry whether it takes the credentials.
func registryLogin(ctx context.Context, host, user, password string) error {
	registry, err := name.NewRegistry(host)
	if err != nil {
		return err
	}
	_, err = transport.NewWithContext(ctx, registry, &authn.Basic{Username: user, Password: password}, http.DefaultTransport, nil)
	return withoutURLs(err)
}
