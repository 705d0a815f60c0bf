package translate

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// annotationsSection is where in an Ingress its annotations are, as a target of policies:
// they come before what the Ingress inherits.
const annotationsSection = "annotations"

// readGuard reads what keeps requests out, as the policies that would say the same.
func (w *wishes) readGuard() {
	access, traffic := &v1alpha1.AccessPolicySpec{}, &v1alpha1.TrafficPolicySpec{}
	allow := append(w.takeList("allowlist-source-range"), w.takeList("whitelist-source-range")...)
	if deny := w.takeList("denylist-source-range"); len(allow)+len(deny) > 0 {
		access.Addresses = &v1alpha1.AddressRules{Allow: allow, Deny: deny}
	}
	w.readBasic(access)
	multiplier := w.takeNumber("limit-burst-multiplier", 5) // ingress-nginx's default
	limit := func(name string, period time.Duration) {
		n := w.takeNumber(name, 0)
		if n == 0 {
			return
		}
		text := gatewayv1.Duration(period.String())
		traffic.RateLimits = append(traffic.RateLimits, v1alpha1.RateLimit{
			Name: name, Requests: int64(n), Period: &text, Burst: int64(n) * int64(max(1, multiplier)),
		})
	}
	limit("limit-rps", time.Second)
	limit("limit-rpm", time.Minute)
	if size := w.take("proxy-body-size"); size != "" {
		n, ok := bytesOf(size)
		switch {
		case !ok:
			w.fail("annotation %sproxy-body-size has the value %q, which is no size such as 8m", annotationPrefix, size)
		case n > 0: // 0 is any size
			traffic.MaxRequestBody = resource.NewQuantity(n, resource.BinarySI)
		}
	}
	w.readAccessLog(traffic)
	if access.Addresses != nil || access.Authentication != nil {
		w.access = access
	}
	if len(traffic.RateLimits) > 0 || traffic.MaxRequestBody != nil || traffic.AccessLog != nil {
		w.traffic = traffic
	}
}

func (w *wishes) readBasic(access *v1alpha1.AccessPolicySpec) {
	kind, secret := w.take("auth-type"), w.take("auth-secret")
	form := cmp.Or(w.take("auth-secret-type"), "auth-file")
	switch {
	case kind == "":
		if secret != "" {
			w.say("annotation %sauth-secret has no effect without auth-type", annotationPrefix)
		}
	case kind != "basic" || form != "auth-file":
		w.fail("annotation %sauth-type: only basic is supported, with users in a file (auth-secret-type auth-file)", annotationPrefix)
	case strings.Contains(secret, "/"):
		w.fail("annotation %sauth-secret: a Secret of another namespace is not supported: copy it into that of the Ingress", annotationPrefix)
	default:
		access.Authentication = &v1alpha1.Authentication{Basic: &v1alpha1.BasicUsers{SecretName: secret}}
	}
}

// bytesOf reads nginx's sizes: a number with k, m or g.
func bytesOf(text string) (int64, bool) {
	text = strings.ToLower(text)
	unit := int64(1)
	if n := len(text); n > 0 {
		if shift := strings.IndexByte("kmg", text[n-1]); shift >= 0 {
			text, unit = text[:n-1], 1<<(10*(shift+1))
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n * unit, err == nil && n >= 0 && n <= 1<<62/unit
}

// annotated is an Ingress whose annotations keep requests out, as policies.
type annotated struct {
	ingress types.NamespacedName
	access  *v1alpha1.AccessPolicySpec  // or nil
	traffic *v1alpha1.TrafficPolicySpec // or nil
}

func (t *translation) annotatedIngresses() (list []annotated) {
	for _, i := range t.Ingresses {
		if len(i.Annotations) == 0 || !t.ownsIngress(i) {
			continue
		}
		if w := readAnnotations(i); w.access != nil || w.traffic != nil {
			list = append(list, annotated{nameOf(i), w.access, w.traffic})
		}
	}
	return list
}

// guardIngresses attaches the policies that annotations stand for, and adds them to all compiled ones.
func (t *translation) guardIngresses(access map[types.NamespacedName]*accessParts, traffic map[types.NamespacedName]*trafficParts) {
	for _, i := range t.policies.annotated {
		at := target{"Ingress", i.ingress.Namespace, i.ingress.Name, annotationsSection}
		// A name that no object can have.
		meta := metav1.ObjectMeta{Namespace: i.ingress.Namespace, Name: "ingress/" + i.ingress.Name}
		if i.access != nil {
			parts := t.compileAccess(&v1alpha1.AccessPolicy{ObjectMeta: meta, Spec: *i.access})
			access[types.NamespacedName{Namespace: meta.Namespace, Name: meta.Name}] = parts
			t.policies.access[at] = parts
		}
		if i.traffic != nil {
			parts := t.compileTraffic(&v1alpha1.TrafficPolicy{ObjectMeta: meta, Spec: *i.traffic})
			traffic[types.NamespacedName{Namespace: meta.Namespace, Name: meta.Name}] = parts
			t.policies.traffic[at] = parts
		}
	}
}

// guardProblem says why the policies of an Ingress's annotations cannot be applied.
func (t *translation) guardProblem(at target) error {
	var errs []error
	if a := t.policies.access[at]; a != nil {
		errs = append(errs, a.problem())
	}
	if p := t.policies.traffic[at]; p != nil {
		errs = append(errs, p.problem())
	}
	return joined(errs...)
}
