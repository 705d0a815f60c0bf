package pipeline

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applydiscoveryv1 "k8s.io/client-go/applyconfigurations/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/gantryhq/gantry/internal/rights"
)

// Ensure installs the role that the service needs and gives it to User, lets who may
// edit a namespace work with its Pipelines, routes and policies, and registers the API of logs. It needs
// an administrator. The kinds are installed together with the gateway's.
func Ensure(ctx context.Context, cfg *rest.Config) error {
	read := []string{"get", "list", "watch"}
	err := rights.Grant(ctx, cfg, User, []rbacv1.PolicyRule{
		{Verbs: read, APIGroups: []string{"gantry.dev"}, Resources: []string{"pipelines"}},
		{Verbs: append([]string{"create", "delete"}, read...), APIGroups: []string{"gantry.dev"}, Resources: []string{"builds"}},
		{Verbs: []string{"patch", "update"}, APIGroups: []string{"gantry.dev"}, Resources: []string{"pipelines/status", "builds/status"}},
		// To make owner references that block deletion, and Secrets with what was deployed.
		{Verbs: []string{"update"}, APIGroups: []string{"gantry.dev"}, Resources: []string{"pipelines/finalizers", "builds/finalizers"}},
		{Verbs: []string{"get", "create", "update"}, APIGroups: []string{""}, Resources: []string{"secrets"}},
		{Verbs: []string{"create", "patch", "update"}, APIGroups: []string{""}, Resources: []string{"events"}},
		{Verbs: []string{"get", "create", "patch"}, APIGroups: []string{""}, Resources: []string{"services"}},
		{Verbs: []string{"get", "create", "patch"}, APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}},
		{Verbs: []string{"get", "create"}, APIGroups: []string{"gateway.networking.k8s.io"}, Resources: []string{"httproutes"}},
	})
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("install pipelines: %w", err)
	}
	// What an application consists of besides Kubernetes' own kinds.
	routes := []string{"httproutes", "grpcroutes", "tcproutes", "tlsroutes"}
	policies := []string{"accesspolicies", "backendpolicies", "scalepolicies", "trafficpolicies"}
	write := []string{"create", "delete", "deletecollection", "patch", "update"}
	for name, rules := range map[string][]rbacv1.PolicyRule{
		"view": {
			{Verbs: read, APIGroups: []string{"gateway.networking.k8s.io"}, Resources: routes},
			{Verbs: read, APIGroups: []string{"gantry.dev"}, Resources: policies},
			{Verbs: read, APIGroups: []string{"gantry.dev"}, Resources: []string{"pipelines", "builds"}},
			{Verbs: []string{"get"}, APIGroups: []string{LogGroup}, Resources: []string{"buildlogs"}},
		},
		"edit": {
			{Verbs: write, APIGroups: []string{"gateway.networking.k8s.io"}, Resources: routes},
			{Verbs: write, APIGroups: []string{"gantry.dev"}, Resources: append([]string{"pipelines", "builds"}, policies...)},
		},
	} {
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{
			Name: "system:gantry:pipelines-" + name, Labels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-" + name: "true"},
		}, Rules: rules}
		if err := rights.EnsureRole(ctx, client, role); err != nil {
			return err
		}
	}
	return registerLogs(ctx, cfg)
}

func registerLogs(ctx context.Context, cfg *rest.Config) error {
	client, err := aggregatorclient.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("register the logs of builds: %w", err)
	}
	name := LogVersion + "." + LogGroup
	services := client.ApiregistrationV1().APIServices()
	_, err = services.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = services.Create(ctx, &apiregistrationv1.APIService{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: apiregistrationv1.APIServiceSpec{
				Group: LogGroup, Version: LogVersion, Service: &apiregistrationv1.ServiceReference{Namespace: Namespace, Name: Name},
				GroupPriorityMinimum: 100, VersionPriority: 100,
			},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("register the logs of builds: %w", err)
	}
	return nil
}

// openHooks opens the listener for webhooks, once, and lets the gateway lead to it:
// by a Service, an EndpointSlice with the listener's address, and a route for the
// path at all hosts of the gateway.
func (s *Service) openHooks(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hooks != nil {
		return nil
	}
	if s.cfg.Webhooks == nil {
		return errors.New("this installation takes no webhooks")
	}
	l, err := s.cfg.Webhooks()
	if err != nil {
		return fmt.Errorf("listen for webhooks: %w", err)
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return errors.Join(fmt.Errorf("listen for webhooks: %s is not a TCP address", l.Addr()), l.Close())
	}
	if err := s.routeHooks(ctx, addr); err != nil {
		return errors.Join(fmt.Errorf("lead webhooks through the gateway: %w", err), l.Close())
	}
	s.hooks = &hookServer{service: s, ctx: ctx, slots: make(chan struct{}, hooksAtOnce)}
	server := &http.Server{Handler: s.hooks, ReadHeaderTimeout: hookReadLimit, ReadTimeout: hookReadLimit, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	s.work.Go(func() {
		<-ctx.Done()
		_ = server.Close() // connections of webhooks need no farewell
	})
	s.work.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.cfg.Log.Error("webhooks are no longer answered", "err", err)
		}
	})
	return nil
}

func (s *Service) routeHooks(ctx context.Context, addr *net.TCPAddr) error {
	const portName = "http"
	by := metav1.ApplyOptions{FieldManager: User, Force: true}
	port := int32(addr.Port)
	_, err := s.kube.CoreV1().Services(Namespace).Apply(ctx, applycorev1.Service(Name, Namespace).WithSpec(applycorev1.ServiceSpec().
		WithPorts(applycorev1.ServicePort().WithName(portName).WithPort(80).WithProtocol(corev1.ProtocolTCP))), by)
	if err != nil {
		return err
	}
	_, err = s.kube.DiscoveryV1().EndpointSlices(Namespace).Apply(ctx, applydiscoveryv1.EndpointSlice(Name, Namespace).
		WithLabels(map[string]string{discoveryv1.LabelServiceName: Name, discoveryv1.LabelManagedBy: "gantry-pipeline"}).
		WithAddressType(discoveryv1.AddressTypeIPv4).
		WithEndpoints(applydiscoveryv1.Endpoint().WithAddresses(addr.IP.String()).WithConditions(applydiscoveryv1.EndpointConditions().WithReady(true))).
		WithPorts(applydiscoveryv1.EndpointPort().WithName(portName).WithPort(port).WithProtocol(corev1.ProtocolTCP)), by)
	if err != nil {
		return err
	}
	cfg := rest.CopyConfig(s.cfg.Client)
	cfg.ContentType, cfg.AcceptContentTypes = "application/json", ""
	gateways, err := gatewayclient.NewForConfig(cfg)
	if err != nil {
		return err
	}
	routes := gateways.GatewayV1().HTTPRoutes(Namespace)
	if _, err = routes.Get(ctx, "pipeline-webhooks", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err // one that is there stays as its owner changed it
	}
	prefix, path, servicePort := gatewayv1.PathMatchPathPrefix, hookPrefix, gatewayv1.PortNumber(80)
	_, err = routes.Create(ctx, &gatewayv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Name: "pipeline-webhooks", Namespace: Namespace},
		Spec: gatewayv1.HTTPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: "default"}}},
			Rules: []gatewayv1.HTTPRouteRule{{
				Matches: []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Type: &prefix, Value: &path}}},
				BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{
					BackendObjectReference: gatewayv1.BackendObjectReference{Name: Name, Port: &servicePort},
				}}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("route %s to port %s: %w", hookPrefix, strconv.Itoa(int(port)), err)
	}
	return nil
}
