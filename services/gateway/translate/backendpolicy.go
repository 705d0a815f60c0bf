package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// BackendPolicies are the policies of Services: what applies where, and what the
// objects' statuses should say.
type BackendPolicies struct {
	Statuses map[types.NamespacedName]gatewayv1.PolicyStatus
	services map[types.NamespacedName]*servicePolicies
}

// servicePolicies are those of one Service; ports are by name.
type servicePolicies struct {
	whole *route.UpstreamPolicy
	ports map[string]*route.UpstreamPolicy
}

// NewBackendPolicies compiles policies. service looks a Service up, or returns nil.
func NewBackendPolicies(list []*v1alpha1.BackendPolicy, service func(types.NamespacedName) *corev1.Service) *BackendPolicies {
	b := &BackendPolicies{
		Statuses: map[types.NamespacedName]gatewayv1.PolicyStatus{},
		services: map[types.NamespacedName]*servicePolicies{},
	}
	for _, o := range oldestFirst(list) {
		policy, err := compileBackendPolicy(o)
		status := gatewayv1.PolicyStatus{}
		for _, ref := range o.Spec.TargetRefs {
			namespace := gatewayv1.Namespace(o.Namespace)
			reason, message := b.attach(o, ref, policy, err, service)
			status.Ancestors = append(status.Ancestors, gatewayv1.PolicyAncestorStatus{
				AncestorRef:    gatewayv1.ParentReference{Group: &ref.Group, Kind: &ref.Kind, Namespace: &namespace, Name: ref.Name, SectionName: ref.SectionName},
				ControllerName: ControllerName,
				Conditions: []metav1.Condition{condition(string(gatewayv1.PolicyConditionAccepted), string(reason),
					reason == gatewayv1.PolicyReasonAccepted, o.Generation, message)},
			})
		}
		b.Statuses[nameOf(o)] = status
	}
	return b
}

// attach makes a policy apply to a target, and says what became of that.
func (b *BackendPolicies) attach(o *v1alpha1.BackendPolicy, ref gatewayv1.LocalPolicyTargetReferenceWithSectionName, policy *route.UpstreamPolicy, invalid error,
	service func(types.NamespacedName) *corev1.Service) (gatewayv1.PolicyConditionReason, string) {
	name := types.NamespacedName{Namespace: o.Namespace, Name: string(ref.Name)}
	if ref.Kind != "Service" || ref.Group != "" && ref.Group != "core" {
		return gatewayv1.PolicyReasonInvalid, fmt.Sprintf("a BackendPolicy targets Services, not %s", ref.Kind)
	}
	s := service(name)
	if s == nil {
		return gatewayv1.PolicyReasonTargetNotFound, fmt.Sprintf("Service %s does not exist", name)
	}
	port := string(deref(ref.SectionName, ""))
	if port != "" && !hasPort(s, port) {
		return gatewayv1.PolicyReasonTargetNotFound, fmt.Sprintf("Service %s has no port with the name %s", name, port)
	}
	if invalid != nil {
		return gatewayv1.PolicyReasonInvalid, invalid.Error()
	}
	at := b.services[name]
	if at == nil {
		at = &servicePolicies{ports: map[string]*route.UpstreamPolicy{}}
		b.services[name] = at
	}
	before := at.whole
	if port != "" {
		before = at.ports[port]
	}
	switch {
	case before != nil && before != policy:
		return gatewayv1.PolicyReasonConflicted, fmt.Sprintf("%s is older and applies to Service %s: merge them or remove one", before.Source, name)
	case port != "":
		at.ports[port] = policy
	default:
		at.whole = policy
	}
	return gatewayv1.PolicyReasonAccepted, ""
}

func hasPort(s *corev1.Service, name string) bool {
	for _, p := range s.Spec.Ports {
		if p.Name == name {
			return true
		}
	}
	return false
}

// Of returns the policy of a Service's port, or nil: the one for the port comes before
// the one for the whole Service.
func (b *BackendPolicies) Of(service types.NamespacedName, port string) *route.UpstreamPolicy {
	if b == nil {
		return nil
	}
	at := b.services[service]
	if at == nil {
		return nil
	}
	if p := at.ports[port]; p != nil {
		return p
	}
	return at.whole
}

const (
	pendingTimeout = 5 * time.Second
	// maxPendingBytes is what requests that wait for one Service may take of memory.
	maxPendingBytes = 64 << 20
)

// orNone reads an optional number of which 0 is a value: in route 0 is the default, and
// below 0 is none.
func orNone(p *int32) int32 {
	if p != nil && *p == 0 {
		return -1
	}
	return deref(p, 0)
}

func compileBackendPolicy(o *v1alpha1.BackendPolicy) (*route.UpstreamPolicy, error) {
	spec := &o.Spec
	p := &route.UpstreamPolicy{Source: "BackendPolicy " + nameOf(o).String()}
	var errs []error
	read := func(field string, d *gatewayv1.Duration, into *time.Duration) {
		v, err := duration(d)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
		*into = v
	}
	read("slowStart", spec.SlowStart, &p.SlowStart)
	if b := spec.Balancing; b != nil {
		p.Balance = balance(b)
	}
	if spec.SessionPersistence != nil {
		var err error
		if p.Session, err = session(spec.SessionPersistence, p.Source); err != nil {
			errs = append(errs, fmt.Errorf("sessionPersistence: %w", err))
		}
	}
	if c := spec.Connections; c != nil {
		p.Limit = &route.Scaled{Waiting: int(deref(c.MaxPending, 100)), Bytes: maxPendingBytes, PerEndpoint: c.MaxPerEndpoint}
		if read("connections.pendingTimeout", c.PendingTimeout, &p.Limit.Patience); p.Limit.Patience == 0 {
			p.Limit.Patience = pendingTimeout
		}
	}
	if t := spec.Timeouts; t != nil {
		read("timeouts.connect", t.Connect, &p.ConnectTimeout)
		read("timeouts.firstByte", t.FirstByte, &p.FirstByteTimeout)
		read("timeouts.idle", t.Idle, &p.IdleTimeout)
	}
	if r := spec.Retry; r != nil {
		p.Retry = &route.Retry{Attempts: int(orNone(r.Attempts)), Codes: ints(r.Codes)}
		read("retry.backoff", r.Backoff, &p.Retry.Backoff)
	}
	if r := spec.RetryBudget; r != nil {
		p.Budget = route.RetryBudget{Percent: orNone(r.Percent), MinPerSecond: orNone(r.MinPerSecond)}
	}
	if e := spec.Ejection; e != nil {
		p.Ejection = route.Ejection{
			ConnectFailures: orNone(e.ConnectFailures), GatewayErrors: deref(e.GatewayErrors, 0), ServerErrors: deref(e.ServerErrors, 0),
			MaxPercent: deref(e.MaxPercent, 0),
		}
		read("ejection.baseTime", e.BaseTime, &p.Ejection.Base)
		read("ejection.maxTime", e.MaxTime, &p.Ejection.Max)
	}
	if h := spec.HealthCheck; h != nil {
		p.Health = healthCheck(h)
		read("healthCheck.interval", h.Interval, &p.Health.Interval)
		read("healthCheck.timeout", h.Timeout, &p.Health.Timeout)
	}
	return p, errors.Join(errs...)
}

func balance(b *v1alpha1.Balancing) route.Balance {
	methods := map[v1alpha1.BalancingMethod]route.Method{v1alpha1.RoundRobin: route.RoundRobin, v1alpha1.ConsistentHash: route.ConsistentHash}
	sources := map[string]route.KeySource{
		"Header": route.HeaderValue, "Cookie": route.CookieValue, "QueryParam": route.QueryValue,
		"ClientAddress": route.ClientAddress, "Host": route.RequestHost, "Path": route.RequestPath,
	}
	balance := route.Balance{Method: methods[b.Method], MaxLoad: deref(b.MaxLoadPercent, 0)}
	for _, k := range b.HashBy {
		balance.Keys = append(balance.Keys, route.HashKey{Source: sources[k.Type], Name: k.Name})
	}
	return balance
}

func healthCheck(h *v1alpha1.HealthCheck) *route.HealthCheck {
	c := &route.HealthCheck{
		Port:    uint16(deref(h.Port, 0)),
		Healthy: deref(h.HealthyThreshold, 0), Unhealthy: deref(h.UnhealthyThreshold, 0), Panic: deref(h.PanicPercent, 0),
	}
	switch {
	case h.HTTP != nil:
		c.Path, c.Host, c.Statuses = h.HTTP.Path, h.HTTP.Host, ints(h.HTTP.Statuses)
	case h.GRPC != nil:
		c.Kind, c.Service = route.CheckGRPC, h.GRPC.Service
	default:
		c.Kind = route.CheckTCP
	}
	return c
}

func ints(values []int32) []int {
	var list []int
	for _, v := range values {
		list = append(list, int(v))
	}
	return list
}

// session translates session persistence (GEP-1619). Without a name the session gets one
// that only its owner has.
func session(spec *gatewayv1.SessionPersistence, owner string) (s *route.Session, err error) {
	s = &route.Session{
		Name:     deref(spec.SessionName, ""),
		InHeader: deref(spec.Type, gatewayv1.CookieBasedSessionPersistence) == gatewayv1.HeaderBasedSessionPersistence,
	}
	if s.Name == "" {
		s.Name = "gantry-session-" + shortHash(owner)
	}
	if !isToken(s.Name) {
		return nil, fmt.Errorf("sessionName %q cannot be the name of a cookie or header: use letters, digits and dashes", s.Name)
	}
	if s.Absolute, err = duration(spec.AbsoluteTimeout); err != nil {
		return nil, fmt.Errorf("absoluteTimeout: %w", err)
	}
	if c := spec.CookieConfig; c != nil && !s.InHeader {
		s.Permanent = deref(c.LifetimeType, gatewayv1.SessionCookieLifetimeType) == gatewayv1.PermanentCookieLifetimeType
	}
	if s.Permanent && s.Absolute == 0 {
		return nil, errors.New("a permanent cookie needs an absoluteTimeout")
	}
	return s, nil
}

// shortHash makes a name of a name.
func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:4])
}

// isToken is RFC 9110, section 5.6.2.
func isToken(name string) bool {
	return name != "" && strings.IndexFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("()<>@,;:\\\"/[]?={}", r)
	}) < 0
}

// retry translates a rule's retry (GEP-1731).
func retry(spec *gatewayv1.HTTPRouteRetry) (*route.Retry, error) {
	r := &route.Retry{Attempts: deref(spec.Attempts, 0)}
	for _, c := range spec.Codes {
		r.Codes = append(r.Codes, int(c))
	}
	var err error
	if r.Backoff, err = duration(spec.Backoff); err != nil {
		return nil, fmt.Errorf("retry.backoff: %w", err)
	}
	return r, nil
}
