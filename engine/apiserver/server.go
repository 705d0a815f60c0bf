package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/util/managedfields"
	utilwaitgroup "k8s.io/apimachinery/pkg/util/waitgroup"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"github.com/gantryhq/gantry/engine/apiserver/inproc"
	"github.com/gantryhq/gantry/engine/apiserver/pki"
)

var (
	everyLabel = labels.Everything()
	everyField = fields.Everything()
)

// Server is the Kubernetes API.
type Server struct {
	cfg        Config
	ca         *pki.Authority
	listeners  []net.Listener
	chain      *chain
	groups     *apiGroups
	core       *core
	crds       *customResources
	crdPaths   *crdDiscovery
	extensions *aggregator
	who        authenticator.Request
	may        authorizer.Authorizer
	grants     *decisions
	mux        *mux.PathRecorderMux
	client     kubernetes.Interface // of ownConfig
	informers  informers.SharedInformerFactory

	fromNetwork http.Handler
	fromProcess http.Handler // set before New returns and not changed any more

	mu         sync.Mutex
	kubeconfig map[string]*issuedKubeconfig // guarded by mu; by path, to be renewed
	streaming  atomic.Pointer[[]string]     // prefixes of MountStreaming; written under mu
}

// New sets up the API and writes what every cluster has (namespaces, roles, the `kubernetes`
// Service). The addresses are taken, but the network is served by Serve only; clients of
// ClientConfig work at once. What New starts ends with ctx.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, kubeconfig: map[string]*issuedKubeconfig{}}
	s.streaming.Store(new([]string))
	var err error
	if s.ca, err = pki.Open(filepath.Join(cfg.DataDir, "pki"), nil); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"listen", s.listen}, {"assemble", s.assemble}, {"informers", s.startInformers}, {"definitions", s.startDefinitions}, {"bootstrap", s.bootstrap},
	} {
		begin := time.Now()
		if err := step.run(ctx); err != nil {
			s.close()
			return nil, err
		}
		cfg.Logger.Debug("API server", "step", step.name, "took", time.Since(begin))
	}
	return s, nil
}

func (s *Server) startDefinitions(ctx context.Context) error {
	go s.extensions.run(ctx)
	return s.crds.start(ctx)
}

// assemble builds the API from storage to filters.
func (s *Server) assemble(ctx context.Context) error {
	var err error
	codecs := newSerializer()
	may, rules, roles := newAuthorizer(s.cfg.Store)
	s.may, s.grants = may, newDecisions(may, roles)
	s.chain = &chain{serializer: codecs, authorizer: may, inFlight: new(utilwaitgroup.SafeWaitGroup), longRunning: s.longRunning, audit: newAuditLog(s.cfg.Audit)}
	if s.client, err = kubernetes.NewForConfig(s.ownConfig()); err != nil {
		return err
	}
	issuer, err := newTokenIssuer(s.ca)
	if err != nil {
		return err
	}
	options := newRegistryOptions(s.cfg.Store, legacyscheme.Scheme, legacyscheme.Codecs, runtime.ContentTypeProtobuf)
	// Pods and services are reached by address, which their certificates do not name.
	transport := &http.Transport{DisableCompression: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	s.core, err = newCore(&s.cfg, options, coreConfig{
		issuer:     issuer,
		audiences:  []string{tokenIssuer},
		authorizer: may,
		disruption: s.client.PolicyV1(),
		node:       nodeConnection{transport: s.nodeTransport()},
		transport:  transport,
	})
	if err != nil {
		return err
	}
	if err := s.core.claimAllocated(ctx); err != nil {
		return err
	}
	s.who, err = newAuthenticator(s.ca, tokenGetter{
		accounts: s.core.accounts.Store, pods: s.core.pods.Pod.Store, secrets: s.core.secrets, nodes: s.core.nodes.Node.Store})
	if err != nil {
		return err
	}
	s.informers = informers.NewSharedInformerFactoryWithOptions(s.client, 0, informers.WithTransform(dropManagedFields))
	admit, err := s.newAdmission(ctx)
	if err != nil {
		return err
	}
	s.groups = newAPIGroups(codecs, s.externalAddress(), admit, may)
	if err := s.installGroups(options, rules); err != nil {
		return err
	}
	if s.crds, err = s.newCustomResources(admit); err != nil {
		return err
	}
	s.crdPaths = newCRDDiscovery(s.crds, s.groups)
	if s.extensions, err = s.newAggregator(); err != nil {
		return err
	}
	s.mux = mux.NewPathRecorderMux("gantry")
	s.installPaths()
	s.fromNetwork = s.chain.network(http.HandlerFunc(s.route), s.who)
	s.fromProcess = s.components(s.chain.inProcess(http.HandlerFunc(s.route)))
	return nil
}

func (s *Server) installGroups(options *registryOptions, rules authorizer.RuleResolver) error {
	converter := newLazyConverter(func() managedfields.TypeConverter { return newConverter(legacyscheme.Scheme, s.groups.served) })
	if err := s.groups.install(&s.core.group, converter, 0); err != nil {
		return err
	}
	priority := 17000
	for _, p := range providers(s.client, s.who, s.may, rules) {
		info, err := p.NewRESTStorage(servedResources(), options)
		if err != nil {
			return fmt.Errorf("set up %T: %w", p, err)
		}
		priority -= 100
		if err := s.groups.install(&info, converter, priority); err != nil {
			return err
		}
	}
	crds, err := newCRDGroup(newRegistryOptions(s.cfg.Store, apiextensions.Scheme, apiextensions.Codecs, runtime.ContentTypeProtobuf))
	if err != nil {
		return err
	}
	scheme := newAggregationScheme()
	codecs := serializer.NewCodecFactory(scheme)
	registrations := newAggregationGroup(scheme, codecs, newRegistryOptions(s.cfg.Store, scheme, codecs, runtime.ContentTypeProtobuf))
	err = s.groups.install(registrations, newLazyConverter(func() managedfields.TypeConverter {
		return newConverter(scheme, s.groups.served)
	}), 15000)
	if err != nil {
		return err
	}
	return s.groups.install(crds, newLazyConverter(func() managedfields.TypeConverter {
		return newConverter(apiextensions.Scheme, s.groups.served)
	}), 16000)
}

// dropManagedFields keeps out of informers what nobody reads there.
func dropManagedFields(obj any) (any, error) {
	if o, err := meta.Accessor(obj); err == nil {
		o.SetManagedFields(nil)
	}
	return obj, nil
}

// newSerializer speaks JSON, YAML, protobuf and CBOR, and streams big lists.
func newSerializer() serializer.CodecFactory {
	return serializer.NewCodecFactory(legacyscheme.Scheme,
		serializer.WithSerializer(cbor.NewSerializerInfo),
		serializer.WithStreamingCollectionEncodingToJSON(),
		serializer.WithStreamingCollectionEncodingToProtobuf())
}

// route sends an authorized request to what serves its path.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	if s.groups.owns(r.URL.Path) {
		s.groups.container.Dispatch(w, r)
		return
	}
	if h := s.extensions.find(r.URL.Path); h != nil {
		h.ServeHTTP(w, r)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// ClientConfig returns a client configuration that calls the API in this process as the given
// user: no socket, no rate limit, and, for what components read most, the objects themselves
// instead of their encoding. As everywhere, objects from informers must not be changed: here
// all informers of the process share them. Clients of custom resources must set ContentType to
// application/json, clients with codecs other than client-go's AcceptContentTypes too. Groups are taken as they are, plus system:authenticated.
func (s *Server) ClientConfig(name string, groups ...string) *rest.Config {
	return s.inside(&user.DefaultInfo{Name: name, Groups: append([]string{user.AllAuthenticated}, groups...)})
}

// AccountConfig is like ClientConfig for a user's service account, whose doings the audit log
// records as if it had called over the network.
func (s *Server) AccountConfig(namespace, name string) *rest.Config {
	info := (&serviceaccount.ServiceAccountInfo{Namespace: namespace, Name: name}).UserInfo().(*user.DefaultInfo)
	info.Groups = append(info.Groups, user.AllAuthenticated)
	return s.inside(account{info})
}

func (s *Server) inside(identity user.Info) *rest.Config {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.fromProcess.ServeHTTP(w, r) })
	return &rest.Config{
		Host:      "http://gantry.internal",
		Transport: inproc.New(h, identity),
		QPS:       -1,
		ContentConfig: rest.ContentConfig{
			AcceptContentTypes: inproc.MediaType + "," + runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
			ContentType:        runtime.ContentTypeProtobuf,
		},
	}
}

// ownConfig is the client configuration of the API server itself.
func (s *Server) ownConfig() *rest.Config {
	return s.ClientConfig(user.APIServerUser, user.SystemPrivilegedGroup)
}

// Addr is the address of the API for clients on this machine.
func (s *Server) Addr() net.Addr { return s.listeners[0].Addr() }

// CABundle is the PEM of the authorities that clients must trust.
func (s *Server) CABundle() []byte { return s.ca.Bundle() }

// ServerCertificate issues a certificate of the instance's authority for another server of the
// instance, for the host names and addresses by which it is called.
func (s *Server) ServerCertificate(commonName string, names []string) (*tls.Certificate, error) {
	return s.ca.ServerCertificate(commonName, names)
}
