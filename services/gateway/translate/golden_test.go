package translate

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/route"
)

var update = flag.Bool("update", false, "write what the translation returns into the golden files")

// Each file in testdata holds the objects that go in, the table that comes out
// and what the statuses say, as one story.
func TestTranslation(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("find golden files: %v, %d files", err, len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			translator := New()
			if pool, ok := strings.CutPrefix(string(archive.Comment), "pool "); ok {
				translator.Pool = netip.MustParsePrefix(strings.Fields(pool)[0])
			}
			got := archive.Files[:1:1]
			if archive.Files[0].Name == "before.yaml" { // what was there some time ago
				translator.Translate(parse(t, archive.Files[0].Data))
				got = archive.Files[:2:2]
			}
			result := translator.Translate(parse(t, got[len(got)-1].Data))
			result.Bind(Reachable{
				Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")},
				Bindings:  bindings(result.Table),
			})
			var table bytes.Buffer
			result.Table.Dump(&table)
			got = append(got, txtar.File{Name: "table", Data: table.Bytes()}, txtar.File{Name: "status", Data: statuses(result)})
			text := txtar.Format(&txtar.Archive{Comment: archive.Comment, Files: got})
			if *update {
				if err := os.WriteFile(file, text, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want := txtar.Format(archive); !bytes.Equal(text, want) {
				t.Errorf("got\n%s\nwant\n%s\nIf the new result is right, run go test -update.", text, want)
			}
		})
	}
}

// bindings are what a data plane would report: everything is open, but port
// 9090 is taken and 203.0.113.0/24 is elsewhere.
func bindings(table *route.Table) map[netip.AddrPort]Binding {
	open := map[netip.AddrPort]Binding{}
	for _, p := range table.Ports() {
		b := Binding{Address: netip.AddrPortFrom(netip.IPv4Unspecified(), p.Number)}
		switch {
		case p.Number == 9090:
			b = Binding{Err: fmt.Errorf("listen on :9090: address already in use")}
		case p.Address.IsValid() && netip.MustParsePrefix("203.0.113.0/24").Contains(p.Address):
			b = Binding{Err: fmt.Errorf("listen on %s: %w", p.At(), syscall.EADDRNOTAVAIL)}
		case p.Address.IsValid():
			b.Address = p.At()
		case p.Number == 80:
			b.Address = netip.MustParseAddrPort("0.0.0.0:8080")
		}
		open[p.At()] = b
	}
	return open
}

// parse reads YAML documents of the kinds that a translation takes.
func parse(t *testing.T, text []byte) Objects {
	t.Helper()
	services := map[types.NamespacedName]*corev1.Service{}
	secrets := map[types.NamespacedName]*corev1.Secret{}
	configMaps := map[types.NamespacedName]*corev1.ConfigMap{}
	namespaces := map[string]*corev1.Namespace{}
	var credentials []*corev1.Secret
	o := Objects{
		Service:   func(n types.NamespacedName) *corev1.Service { return services[n] },
		Secret:    func(n types.NamespacedName) *corev1.Secret { return secrets[n] },
		ConfigMap: func(n types.NamespacedName) *corev1.ConfigMap { return configMaps[n] },
		Namespace: func(n string) *corev1.Namespace { return namespaces[n] },
	}
	o.Credential = func(n types.NamespacedName) *corev1.Secret {
		return named(credentials, target{namespace: n.Namespace, name: n.Name})
	}
	o.Credentials = func(namespace string) (list []*corev1.Secret) {
		for _, s := range credentials {
			if s.Namespace == namespace {
				list = append(list, s)
			}
		}
		return list
	}
	for _, doc := range strings.Split(string(text), "\n---\n") {
		var kind metav1.TypeMeta
		decode(t, doc, &kind)
		switch kind.Kind {
		case "GatewayClass":
			o.Classes = append(o.Classes, decode(t, doc, &gatewayv1.GatewayClass{}))
		case "Gateway":
			o.Gateways = append(o.Gateways, decode(t, doc, &gatewayv1.Gateway{}))
		case "HTTPRoute":
			o.Routes = append(o.Routes, decode(t, doc, &gatewayv1.HTTPRoute{}))
		case "ListenerSet":
			o.ListenerSets = append(o.ListenerSets, decode(t, doc, &gatewayv1.ListenerSet{}))
		case "GRPCRoute":
			o.GRPCRoutes = append(o.GRPCRoutes, decode(t, doc, &gatewayv1.GRPCRoute{}))
		case "TLSRoute":
			o.TLSRoutes = append(o.TLSRoutes, decode(t, doc, &gatewayv1.TLSRoute{}))
		case "TCPRoute":
			o.TCPRoutes = append(o.TCPRoutes, decode(t, doc, &gatewayv1.TCPRoute{}))
		case "BackendTLSPolicy":
			o.BackendTLS = append(o.BackendTLS, decode(t, doc, &gatewayv1.BackendTLSPolicy{}))
		case "ConfigMap":
			m := decode(t, doc, &corev1.ConfigMap{})
			if host := m.Annotations["test/certificate"]; host != "" {
				m.Data = map[string]string{"ca.crt": string(keyPair(t, host)[corev1.TLSCertKey])}
			}
			configMaps[nameOf(m)] = m
		case "ReferenceGrant":
			o.Grants = append(o.Grants, decode(t, doc, &gatewayv1.ReferenceGrant{}))
		case "Ingress":
			o.Ingresses = append(o.Ingresses, decode(t, doc, &networkingv1.Ingress{}))
		case "IngressClass":
			o.IngressClasses = append(o.IngressClasses, decode(t, doc, &networkingv1.IngressClass{}))
		case "Service":
			s := decode(t, doc, &corev1.Service{})
			services[nameOf(s)] = s
		case "AccessPolicy":
			o.AccessPolicies = append(o.AccessPolicies, decode(t, doc, &v1alpha1.AccessPolicy{}))
		case "TrafficPolicy":
			o.TrafficPolicies = append(o.TrafficPolicies, decode(t, doc, &v1alpha1.TrafficPolicy{}))
		case "Namespace":
			n := decode(t, doc, &corev1.Namespace{})
			namespaces[n.Name] = n
		case "Secret":
			s := decode(t, doc, &corev1.Secret{})
			s.Data = map[string][]byte{}
			for k, v := range s.StringData {
				s.Data[k] = []byte(v)
			}
			if s.Type == CredentialsType {
				credentials = append(credentials, s)
				continue
			}
			if s.Annotations["test/key-pair"] != "" {
				s.Data = keyPair(t, s.Annotations["test/key-pair"])
			}
			secrets[nameOf(s)] = s
		default:
			t.Fatalf("kind %q has no place in a translation", kind.Kind)
		}
	}
	return o
}

func decode[T any](t *testing.T, doc string, into *T) *T {
	t.Helper()
	if err := yaml.Unmarshal([]byte(doc), into); err != nil {
		t.Fatalf("decode %T: %v", into, err)
	}
	return into
}

// statuses writes the result's conditions in lines.
func statuses(r *Result) []byte {
	var lines []string
	add := func(subject string, conditions []metav1.Condition) {
		for _, c := range conditions {
			line := fmt.Sprintf("%s: %s=%s %s", subject, c.Type, c.Status, c.Reason)
			if c.Message != "" {
				line += ": " + c.Message
			}
			lines = append(lines, line)
		}
	}
	for name, s := range r.Classes {
		add("GatewayClass "+name, s.Conditions)
	}
	for name, s := range r.Gateways {
		add("Gateway "+name.String(), s.Conditions)
		for _, a := range s.Addresses {
			lines = append(lines, fmt.Sprintf("Gateway %s: address %s %s", name, *a.Type, a.Value))
		}
		for _, l := range s.Listeners {
			subject := fmt.Sprintf("Gateway %s listener %s", name, l.Name)
			lines = append(lines, fmt.Sprintf("%s: %d attached, %d kinds", subject, l.AttachedRoutes, len(l.SupportedKinds)))
			add(subject, l.Conditions)
		}
	}
	for name, s := range r.ListenerSets {
		add("ListenerSet "+name.String(), s.Conditions)
		for _, l := range s.Listeners {
			subject := fmt.Sprintf("ListenerSet %s listener %s", name, l.Name)
			lines = append(lines, fmt.Sprintf("%s: %d attached, %d kinds", subject, l.AttachedRoutes, len(l.SupportedKinds)))
			add(subject, l.Conditions)
		}
	}
	for name, ancestors := range r.BackendTLS {
		for _, a := range ancestors {
			add(fmt.Sprintf("BackendTLSPolicy %s ancestor %s", name, a.AncestorRef.Name), a.Conditions)
		}
	}
	for name, parents := range r.Routes {
		for _, p := range parents {
			add(fmt.Sprintf("%s %s parent %s/%s", name.Kind, name.NamespacedName, p.ParentRef.Name, deref(p.ParentRef.SectionName, "*")), p.Conditions)
		}
	}
	for kind, policies := range map[string]map[types.NamespacedName]gatewayv1.PolicyStatus{"AccessPolicy": r.AccessPolicies, "TrafficPolicy": r.TrafficPolicies} {
		for name, s := range policies {
			for _, a := range s.Ancestors {
				add(fmt.Sprintf("%s %s for %s %s/%s", kind, name, *a.AncestorRef.Kind, a.AncestorRef.Name, deref(a.AncestorRef.SectionName, "*")), a.Conditions)
			}
		}
	}
	for _, name := range r.Ingresses {
		lines = append(lines, "Ingress "+name.String()+": served")
	}
	for _, w := range r.Wishes {
		lines = append(lines, fmt.Sprintf("certificate in Secret %s for %v from %s %s", w.Secret, w.Hosts, w.Directory, w.Email))
	}
	slices.Sort(lines)
	for _, p := range r.Problems {
		lines = append(lines, "problem: "+p)
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}
