package contract

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// TestUpstream runs the contract against a real kube-apiserver with etcd and
// kube-controller-manager, so that a promise which Kubernetes does not keep itself
// is found out. `make contract-upstream` builds the programs and names their directory.
func TestUpstream(t *testing.T) {
	Run(t, startUpstream(t, upstreamPrograms(t)))
}

// upstreamPrograms is the directory of etcd, kube-apiserver and kube-controller-manager.
func upstreamPrograms(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("CONTRACT_UPSTREAM")
	if dir == "" {
		t.Skip("CONTRACT_UPSTREAM names no directory with upstream's programs: `make contract-upstream` does")
	}
	return dir
}

// startUpstream runs a Kubernetes control plane until the test ends.
func startUpstream(t *testing.T, programs string) *rest.Config {
	t.Helper()
	dir := t.TempDir()
	key, admin := filepath.Join(dir, "accounts.key"), filepath.Join(dir, "admin.crt")
	cfg := &rest.Config{Host: "https://" + freePort(t), TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(dir, "apiserver.crt")}}
	cfg.CertData, cfg.KeyData = newAdmin(t)
	write(t, key, cfg.KeyData) // any key will do
	write(t, admin, cfg.CertData)

	etcd, peer := "http://"+freePort(t), "http://"+freePort(t)
	run(t, programs, "etcd", "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level", "error",
		"--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", peer)
	_, port, _ := net.SplitHostPort(cfg.Host[len("https://"):])
	run(t, programs, "kube-apiserver", "--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--secure-port", port, "--cert-dir", dir,
		"--client-ca-file", admin, "--authorization-mode", "Node,RBAC", "--allow-privileged", "--service-cluster-ip-range", "10.96.0.0/16",
		// With aggregation; its client certificate is the administrator's, which is as good as another.
		"--requestheader-client-ca-file", admin, "--requestheader-allowed-names", "admin", "--requestheader-username-headers", "X-Remote-User", "--requestheader-group-headers", "X-Remote-Group",
		"--requestheader-extra-headers-prefix", "X-Remote-Extra-", "--proxy-client-cert-file", admin, "--proxy-client-key-file", key,
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", key, "--service-account-signing-key-file", key)
	within(t, time.Minute, "kube-apiserver's readiness", func() error {
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return err
		}
		_, err = client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
		return err
	})

	kubeconfig := filepath.Join(dir, "kubeconfig")
	k := clientcmdapi.NewConfig()
	k.Clusters["c"] = &clientcmdapi.Cluster{Server: cfg.Host, CertificateAuthority: cfg.CAFile}
	k.AuthInfos["c"] = &clientcmdapi.AuthInfo{ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData}
	k.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "c"}
	k.CurrentContext = "c"
	if err := clientcmd.WriteToFile(*k, kubeconfig); err != nil {
		t.Fatal(err)
	}
	run(t, programs, "kube-controller-manager", "--kubeconfig", kubeconfig, "--leader-elect=false", "--secure-port", "0",
		"--use-service-account-credentials", "--service-account-private-key-file", key, "--root-ca-file", cfg.CAFile)
	within(t, time.Minute, "the default service account, the controllers' first work", func() error {
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return err
		}
		_, err = client.CoreV1().ServiceAccounts("default").Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return cfg
}

// run runs one of upstream's programs until the test ends, and shows the end of what
// it wrote when the test has failed.
func run(t *testing.T, programs, name string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(filepath.Join(programs, name), args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // its data is thrown away, too
		_ = cmd.Wait()
		if text := log.Bytes(); t.Failed() {
			t.Logf("the end of the log of %s:\n%s", name, text[max(0, len(text)-4<<10):])
		}
	})
}

func within(t *testing.T, patience time.Duration, what string, ok func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(errors.Join(fmt.Errorf("%s did not come within %v", what, patience), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// newAdmin makes an administrator's certificate, its own authority, and the key, as PEM.
func newAdmin(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
