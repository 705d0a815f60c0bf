package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

const hostsFile = "hosts.toml"

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
		dir, err := s.hostDir(host)
		if errdefs.IsNotFound(err) {
			return plain(host)
		}
		if err != nil {
			return nil, err
		}
		if err := checkHosts(dir); err != nil {
			return nil, err
		}
		return configured(host)
	}})
}

// hostDir is the directory with the hosts.toml of a registry, if there is one.
func (s *Store) hostDir(host string) (string, error) {
	dir := filepath.Join(s.hostsDir, filepath.Base(host))
	_, err := os.Stat(filepath.Join(dir, hostsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", errdefs.ErrNotFound
	}
	return dir, err
}

// checkHosts refuses a hosts.toml that cannot be read: the library would go on
// without it, to a registry that was not meant.
func checkHosts(dir string) error {
	path := filepath.Join(dir, hostsFile)
	blob, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read mirrors: %w", err)
	}
	var parsed map[string]any
	if err := toml.Unmarshal(blob, &parsed); err != nil {
		return fmt.Errorf("read mirrors in %s: %w", path, err)
	}
	return nil
}
