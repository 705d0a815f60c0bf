package images

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/apiclient"
	"github.com/gantryhq/gantry/internal/attest"
	"github.com/gantryhq/gantry/internal/rights"
)

// Prefix is where the service is under the API's address.
const Prefix = "/images/"

// User is whom the service is, where it is a part of `gantry serve`.
const User = "system:gantry:images"

// reader is the ClusterRole of everybody who is logged in: what they are told depends on what they may pull.
const reader = "gantry-images-reader"

// EnsureRoles installs the role that the service needs, gives it to User, and lets everybody who is logged in
// ask. It needs an administrator.
func EnsureRoles(ctx context.Context, cfg *rest.Config) error {
	err := rights.Grant(ctx, cfg, User, []rbacv1.PolicyRule{
		{Verbs: []string{"create"}, APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}},
		{Verbs: []string{"list"}, APIGroups: []string{"gantry.dev"}, Resources: []string{"trustpolicies"}},
	})
	if err != nil {
		return err
	}
	if err := rights.LetAsk(ctx, cfg, reader, []string{"get"}, Prefix+"*"); err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("bind role %s: %w", reader, err)
	}
	return rights.Bind(ctx, client, reader, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:authenticated"})
}

// Config says which registry is looked at, and for whom.
type Config struct {
	Client   *rest.Config // the identity [User]
	Registry string       // host:port, as image names start
	// Transport reaches the registry, logged in; nil is http.DefaultTransport.
	Transport http.RoundTripper
	// InstanceKey is the installation's own key.
	InstanceKey func(context.Context) (*attest.PublicKey, error)
	// User tells who asks.
	User func(*http.Request) (user.Info, bool)
	Now  func() time.Time // nil is time.Now
}

// Service answers below [Prefix]. It is safe for concurrent use.
type Service struct {
	cfg      Config
	reviews  rights.Reviews
	policies *apiclient.Client
	mux      *http.ServeMux

	mu     sync.Mutex           // guards following
	looked map[string]*describe // by repository@digest
	known  keyring
}

// New returns a service. It asks for nothing before somebody asks it.
func New(cfg Config) (*Service, error) {
	if cfg.Client == nil || cfg.Registry == "" || cfg.User == nil || cfg.InstanceKey == nil {
		return nil, errors.New("images: Client, Registry, InstanceKey and User are needed")
	}
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	client, err := kubernetes.NewForConfig(cfg.Client)
	if err != nil {
		return nil, fmt.Errorf("set up images: %w", err)
	}
	policies, err := apiclient.New(cfg.Client)
	if err != nil {
		return nil, fmt.Errorf("set up images: %w", err)
	}
	s := &Service{cfg: cfg, reviews: rights.Reviews{Client: client}, policies: policies, mux: http.NewServeMux(), looked: map[string]*describe{}}
	s.mux.HandleFunc("GET "+Prefix+"api/v1/images", s.serveList)
	s.mux.HandleFunc("GET "+Prefix+"api/v1/image", s.serveOne)
	return s, nil
}

// ServeHTTP implements [http.Handler].
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }
