package image

import (
	"context"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
)

// resolver reaches registries with the given credentials, nil for anonymous.
func (s *Store) resolver(ctx context.Context, keys Keychain) remotes.Resolver {
	creds := func(host string) (string, string, error) {
		if host == "registry-1.docker.io" {
			host = "docker.io"
		}
		for _, k := range []Keychain{keys, s.keychain} {
			if k == nil {
				continue
			}
			if user, password, ok := k(host); ok {
				return user, password, nil
			}
		}
		return "", "", nil
	}
	plain := docker.ConfigureDefaultRegistries(
		docker.WithClient(s.client),
		docker.WithPlainHTTP(docker.MatchLocalhost),
		docker.WithAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthClient(s.client), docker.WithAuthCreds(creds))),
	)
	configured := config.ConfigureHosts(ctx, config.HostOptions{HostDir: s.hostDir, Credentials: creds})
	return docker.NewResolver(docker.ResolverOptions{Hosts: func(host string) ([]docker.RegistryHost, error) {
		if _, err := s.hostDir(host); err == nil {
			return configured(host)
		}
		return plain(host)
	}})
}

// hostDir is the directory with the hosts.toml of a registry, if there is one.
func (s *Store) hostDir(host string) (string, error) {
	dir := filepath.Join(s.hostsDir, filepath.Base(host))
	if _, err := os.Stat(filepath.Join(dir, "hosts.toml")); err != nil {
		return "", errdefs.ErrNotFound
	}
	return dir, nil
}
