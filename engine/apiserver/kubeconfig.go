package apiserver

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gantryhq/gantry/internal/atomicfile"
)

// issuedKubeconfig is a kubeconfig file to be replaced before its certificate expires.
type issuedKubeconfig struct {
	user   string
	groups []string
	renew  time.Time
}

// WriteKubeconfig writes a kubeconfig, mode 0600, whose client certificate authenticates as user
// in groups. While Serve runs the file is replaced before the certificate expires.
func (s *Server) WriteKubeconfig(path, user string, groups []string) error {
	cert, key, renew, err := s.ca.ClientCertificate(user, groups)
	if err != nil {
		return err
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["gantry"] = &clientcmdapi.Cluster{Server: "https://" + s.externalAddress(), CertificateAuthorityData: s.ca.Bundle()}
	cfg.AuthInfos["gantry"] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	cfg.Contexts["gantry"] = &clientcmdapi.Context{Cluster: "gantry", AuthInfo: "gantry"}
	cfg.CurrentContext = "gantry"
	data, err := clientcmd.Write(*cfg)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	if err := atomicfile.Write(path, data, 0o600); err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kubeconfig[path] = &issuedKubeconfig{user: user, groups: slices.Clone(groups), renew: renew}
	return nil
}

// renewKubeconfigs replaces kubeconfigs when their time has come, until ctx ends.
func (s *Server) renewKubeconfigs(ctx context.Context) error {
	daily := time.NewTicker(24 * time.Hour)
	defer daily.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-daily.C:
			for path, k := range s.due(now) {
				if err := s.WriteKubeconfig(path, k.user, k.groups); err != nil {
					s.cfg.Logger.Error("renew kubeconfig", "path", path, "error", err)
				}
			}
		}
	}
}

func (s *Server) due(now time.Time) map[string]issuedKubeconfig {
	s.mu.Lock()
	defer s.mu.Unlock()
	due := map[string]issuedKubeconfig{}
	for path, k := range s.kubeconfig {
		if now.After(k.renew) {
			due[path] = *k
		}
	}
	return due
}
