package translate

import (
	"cmp"
	"fmt"
	"maps"
	neturl "net/url"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The annotations of a Gateway, ListenerSet or Ingress that let the gateway get
// its certificates from an authority. Whoever sets the first one agrees to the
// authority's terms of service.
const (
	acmeDirectory = "gantry.dev/acme-directory" // URL, or a word of wellKnownDirectories
	acmeEmail     = "gantry.dev/acme-email"
)

// wellKnownDirectories are authorities by name.
var wellKnownDirectories = map[string]string{
	"letsencrypt":         "https://acme-v02.api.letsencrypt.org/directory",
	"letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}

// Wish is a certificate that is to be got from an authority by ACME.
type Wish struct {
	Secret           types.NamespacedName
	Hosts            []string // sorted
	Directory, Email string
}

// wish notes that the certificate in a Secret of the owner's namespace is to be
// got for hosts, if the owner's annotations say so.
func (t *translation) wish(kind string, owner metav1.Object, secret string, hosts []string) {
	directory, wanted := owner.GetAnnotations()[acmeDirectory]
	if !wanted || secret == "" {
		return
	}
	if known, ok := wellKnownDirectories[directory]; ok {
		directory = known
	}
	refuse := func(format string, args ...any) {
		t.problem("%s %s: no certificate for Secret %s is requested: %s", kind, nameOf(owner), secret, fmt.Sprintf(format, args...))
	}
	if u, err := neturl.Parse(directory); err != nil || u.Scheme != "https" || u.Host == "" {
		refuse("annotation %s is %q, want an https URL, letsencrypt or letsencrypt-staging", acmeDirectory, directory)
		return
	}
	var precise []string
	for _, host := range hosts {
		if host = strings.ToLower(host); host == "" || strings.HasPrefix(host, "*") {
			refuse("a host name without wildcard is needed: the gateway can prove no other")
			return
		}
		precise = append(precise, host)
	}
	if len(precise) == 0 {
		refuse("no host name is given")
		return
	}
	by := RouteName{kind, nameOf(owner)}
	t.wished[by] = append(t.wished[by], Wish{
		Secret: types.NamespacedName{Namespace: owner.GetNamespace(), Name: secret}, Hosts: precise,
		Directory: directory, Email: owner.GetAnnotations()[acmeEmail],
	})
}

// wishes are what anybody wants, one for each Secret.
func (t *translation) wishes() []Wish {
	bySecret := map[types.NamespacedName]Wish{}
	owners := slices.SortedFunc(maps.Keys(t.wished), func(a, b RouteName) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, by := range owners {
		for _, w := range t.wished[by] {
			w.Hosts = slices.Compact(slices.Sorted(slices.Values(append(w.Hosts[:len(w.Hosts):len(w.Hosts)], bySecret[w.Secret].Hosts...))))
			bySecret[w.Secret] = w
		}
	}
	return slices.SortedFunc(maps.Values(bySecret), func(a, b Wish) int {
		return cmp.Or(cmp.Compare(a.Secret.Namespace, b.Secret.Namespace), cmp.Compare(a.Secret.Name, b.Secret.Name))
	})
}

// listenerWish is for a listener whose only certificate is of its own namespace.
func (t *translation) listenerWish(l *listener) {
	kind, owner := l.owner()
	if l.spec.TLS == nil || len(l.spec.TLS.CertificateRefs) != 1 {
		return
	}
	ref := l.spec.TLS.CertificateRefs[0]
	if deref(ref.Kind, "Secret") == "Secret" && deref(ref.Group, "") == "" && string(deref(ref.Namespace, "")) == "" {
		t.wish(kind, owner, string(ref.Name), []string{l.hostname})
	}
}

func (t *translation) ingressWishes(i *networkingv1.Ingress) {
	for _, spec := range i.Spec.TLS {
		t.wish("Ingress", i, spec.SecretName, spec.Hosts)
	}
}
