package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gantryhq/gantry/engine/network/catalog"
)

// upstream is a resolver that stands for the world. Names it does not know do not
// exist.
type upstream struct {
	port  string
	mu    sync.Mutex
	rrs   map[string]string // "name TYPE" to a record's data; "" exists without data
	asked []string          // "name TYPE", in order
	delay atomic.Int64      // of every answer, in nanoseconds
	rcode atomic.Int32      // of every answer, when not 0
}

func startUpstream(t testing.TB, ip string, rrs map[string]string) *upstream {
	t.Helper()
	u := &upstream{rrs: rrs}
	udp, tcp := listenBoth(t, ip)
	_, u.port, _ = net.SplitHostPort(tcp.Addr().String())
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: u}, {Listener: tcp, Handler: u}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return u
}

// listenBoth binds the same free port for both protocols.
func listenBoth(t testing.TB, ip string) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 20 {
		tcp, err := net.Listen("tcp4", net.JoinHostPort(ip, "0"))
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenPacket("udp4", tcp.Addr().String())
		if err == nil {
			return udp, tcp
		}
		tcp.Close()
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

func (u *upstream) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	time.Sleep(time.Duration(u.delay.Load()))
	q := req.Question[0]
	key := strings.ToLower(q.Name) + " " + dns.TypeToString[q.Qtype]
	u.mu.Lock()
	u.asked = append(u.asked, key)
	data, ok := u.rrs[key]
	exists := ok
	for k := range u.rrs {
		exists = exists || strings.HasPrefix(k, strings.ToLower(q.Name)+" ")
	}
	u.mu.Unlock()

	resp := new(dns.Msg).SetReply(req)
	switch {
	case u.rcode.Load() != 0:
		resp.Rcode = int(u.rcode.Load())
	case !exists:
		resp.Rcode = dns.RcodeNameError
	}
	for d := range strings.SplitSeq(data, "|") {
		if d == "" {
			continue
		}
		rr, err := dns.NewRR(fmt.Sprintf("%s 60 IN %s %s", q.Name, dns.TypeToString[q.Qtype], d))
		if err != nil {
			panic(err)
		}
		resp.Answer = append(resp.Answer, rr)
	}
	if len(resp.Answer) == 0 {
		soa, _ := dns.NewRR("example.com. 60 IN SOA ns.example.com. root.example.com. 1 2 3 4 60")
		resp.Ns = append(resp.Ns, soa)
	}
	if _, ok := w.RemoteAddr().(*net.UDPAddr); ok {
		size := dns.MinMsgSize
		if opt := req.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
		resp.Truncate(size)
	}
	_ = w.WriteMsg(resp)
}

func (u *upstream) takeAsked() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := u.asked
	u.asked = nil
	return out
}

// clusterDNS is a server under test.
type clusterDNS struct {
	t      testing.TB
	server *Server
	addr   string
	resolv string
}

// startDNS serves the objects. Queries come from 127.0.0.1, which is a pod in the
// namespace "default".
func startDNS(t testing.TB, resolvConf, upstreamPort string, objects ...runtime.Object) *clusterDNS {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cat := catalog.New(fake.NewClientset(objects...), func(catalog.Key) {})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := cat.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte(resolvConf), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		Listen: netip.MustParseAddrPort("127.0.0.1:0"), Domain: "cluster.local", Catalog: cat,
		PodCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
		NamespaceOf: func(ip netip.Addr) string {
			if ip == netip.MustParseAddr("127.0.0.1") {
				return "default"
			}
			return ""
		},
		ResolvConf: resolv, upstreamPort: upstreamPort, tcpClients: testTCPClients,
	})
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	<-cat.Synced()
	return &clusterDNS{t, s, net.JoinHostPort("127.0.0.1", strconv.Itoa(int(s.Port()))), resolv}
}

func (c *clusterDNS) query(name string, qtype uint16) *dns.Msg {
	c.t.Helper()
	m, _, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion(name, qtype), c.addr)
	if err != nil {
		c.t.Fatalf("query %s: %v", name, err)
	}
	return m
}

// answers returns the records of the answer section without TTLs, sorted.
func answers(rrs []dns.RR) string {
	var out []string
	for _, rr := range rrs {
		out = append(out, strings.Join(strings.Fields(strings.Replace(rr.String(), strconv.Itoa(int(rr.Header().Ttl))+"\tIN\t", "", 1)), " "))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func service(name, clusterIP string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: clusterIP, Ports: ports},
	}
}

func in(namespace string, s *corev1.Service) *corev1.Service {
	s.Namespace = namespace
	return s
}

func externalName(name, target string) *corev1.Service {
	s := service(name, "")
	s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, target
	return s
}

func slice(service string, ports []discoveryv1.EndpointPort, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: ports, Endpoints: endpoints,
	}
}

func endpoint(ip, hostname string, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	if hostname != "" {
		e.Hostname = &hostname
	}
	return e
}

// shop is a cluster with a service of every kind.
func shop() []runtime.Object {
	https, dnsName, pg := "https", "dns", "postgres"
	tcp := corev1.ProtocolTCP
	pgPort := int32(5432)
	pgPorts := []discoveryv1.EndpointPort{{Name: &pg, Protocol: &tcp, Port: &pgPort}}
	return []runtime.Object{
		service("web", "10.96.1.1",
			corev1.ServicePort{Name: https, Protocol: tcp, Port: 443},
			corev1.ServicePort{Name: dnsName, Protocol: corev1.ProtocolUDP, Port: 53}),
		service("unnamed", "10.96.1.2", corev1.ServicePort{Port: 80}),
		in("other", service("api", "10.96.1.3", corev1.ServicePort{Port: 80})),
		service("db", "None", corev1.ServicePort{Name: pg, Protocol: tcp, Port: 5432}),
		slice("db", pgPorts, endpoint("10.244.0.7", "db-0", true), endpoint("10.244.0.8", "", true), endpoint("10.244.0.9", "db-2", false)),
		service("empty", "None", corev1.ServicePort{Name: pg, Port: 5432}),
		slice("empty", pgPorts, endpoint("10.244.0.10", "", false)),
		externalName("outside", "www.example.com"),
		externalName("alias", "web.default.svc.cluster.local"),
		externalName("circle", "circle.default.svc.cluster.local"),
	}
}

func TestSpecification(t *testing.T) {
	up := startUpstream(t, "127.0.0.2", map[string]string{"www.example.com. A": "192.0.2.53"})
	c := startDNS(t, "nameserver 127.0.0.2", up.port, shop()...)
	const ok, nx = dns.RcodeSuccess, dns.RcodeNameError
	const web, db = "web.default.svc.cluster.local.", "db.default.svc.cluster.local."
	for _, tc := range []struct {
		name  string
		qtype uint16
		rcode int
		want  string // answers, sorted; "" is none, then there must be a SOA
	}{
		{"dns-version.cluster.local.", dns.TypeTXT, ok, `dns-version.cluster.local. TXT "1.1.0"`},
		{"dns-version.cluster.local.", dns.TypeA, ok, ""},
		{"cluster.local.", dns.TypeSOA, ok, "cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 "},
		{"cluster.local.", dns.TypeNS, ok, "cluster.local. NS ns.dns.cluster.local."},
		{"ns.dns.cluster.local.", dns.TypeA, ok, "ns.dns.cluster.local. A 127.0.0.1"},
		{"nothing.cluster.local.", dns.TypeA, nx, ""},

		// 2.3: services with a cluster address.
		{web, dns.TypeA, ok, web + " A 10.96.1.1"},
		{web, dns.TypeAAAA, ok, ""},
		{web, dns.TypeMX, ok, ""},
		{"_https._tcp." + web, dns.TypeSRV, ok, "_https._tcp." + web + " SRV 0 100 443 " + web},
		{"_dns._udp." + web, dns.TypeSRV, ok, "_dns._udp." + web + " SRV 0 100 53 " + web},
		{"_dns._tcp." + web, dns.TypeSRV, nx, ""},
		{"_https._tcp." + web, dns.TypeA, ok, ""},
		{"_tcp." + web, dns.TypeA, ok, ""},
		{"_sctp." + web, dns.TypeA, nx, ""},
		{"_80._tcp.unnamed.default.svc.cluster.local.", dns.TypeSRV, nx, ""},
		{"1.1.96.10.in-addr.arpa.", dns.TypePTR, ok, "1.1.96.10.in-addr.arpa. PTR " + web},
		{"1.1.96.10.in-addr.arpa.", dns.TypeA, ok, ""},
		{"9.9.96.10.in-addr.arpa.", dns.TypePTR, nx, ""},
		{"x." + web, dns.TypeA, nx, ""},

		// 2.4: headless services.
		{db, dns.TypeA, ok, db + " A 10.244.0.7\n" + db + " A 10.244.0.8"},
		{"db-0." + db, dns.TypeA, ok, "db-0." + db + " A 10.244.0.7"},
		{"10-244-0-8." + db, dns.TypeA, ok, "10-244-0-8." + db + " A 10.244.0.8"},
		{"db-2." + db, dns.TypeA, nx, ""},
		{"_postgres._tcp." + db, dns.TypeSRV, ok, "_postgres._tcp." + db + " SRV 0 100 5432 10-244-0-8." + db + "\n_postgres._tcp." + db + " SRV 0 100 5432 db-0." + db},
		{"7.0.244.10.in-addr.arpa.", dns.TypePTR, ok, "7.0.244.10.in-addr.arpa. PTR db-0." + db},
		{"9.0.244.10.in-addr.arpa.", dns.TypePTR, nx, ""},
		{"empty.default.svc.cluster.local.", dns.TypeA, nx, ""},
		{"_postgres._tcp.empty.default.svc.cluster.local.", dns.TypeSRV, nx, ""},

		// 2.5: external names.
		{"outside.default.svc.cluster.local.", dns.TypeA, ok, "outside.default.svc.cluster.local. CNAME www.example.com.\nwww.example.com. A 192.0.2.53"},
		{"outside.default.svc.cluster.local.", dns.TypeCNAME, ok, "outside.default.svc.cluster.local. CNAME www.example.com."},
		{"alias.default.svc.cluster.local.", dns.TypeA, ok, "alias.default.svc.cluster.local. CNAME " + web + "\n" + web + " A 10.96.1.1"},

		// 2.6: pods.
		{"10-244-0-7.default.pod.cluster.local.", dns.TypeA, ok, "10-244-0-7.default.pod.cluster.local. A 10.244.0.7"},
		{"10-244-0-777.default.pod.cluster.local.", dns.TypeA, nx, ""},

		// Names between, and letters of either case.
		{"svc.cluster.local.", dns.TypeA, ok, ""},
		{"default.svc.cluster.local.", dns.TypeA, ok, ""},
		{"nobody.svc.cluster.local.", dns.TypeA, nx, ""},
		{"WeB.Default.SVC.cluster.local.", dns.TypeA, ok, "WeB.Default.SVC.cluster.local. A 10.96.1.1"},
	} {
		m := c.query(tc.name, tc.qtype)
		got := answers(m.Answer)
		what := tc.name + " " + dns.TypeToString[tc.qtype]
		if m.Rcode != tc.rcode || tc.want == "" && got != "" || !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s: %s\n%s\nwant %s\n%s", what, dns.RcodeToString[m.Rcode], got, dns.RcodeToString[tc.rcode], tc.want)
		}
		if tc.want == "" && (len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != dns.TypeSOA) {
			t.Errorf("%s: a negative answer without the SOA: %v", what, m.Ns)
		}
		if !m.Authoritative || !m.RecursionAvailable {
			t.Errorf("%s: aa=%v ra=%v", what, m.Authoritative, m.RecursionAvailable)
		}
	}
	if m := c.query("_postgres._tcp."+db, dns.TypeSRV); answers(m.Extra) != "10-244-0-8."+db+" A 10.244.0.8\ndb-0."+db+" A 10.244.0.7" {
		t.Errorf("SRV targets' addresses: %s", answers(m.Extra))
	}
	if m := c.query("circle.default.svc.cluster.local.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("an alias of itself: %s", dns.RcodeToString[m.Rcode])
	}
	for _, q := range up.takeAsked() {
		if strings.Contains(q, "cluster.local") {
			t.Errorf("the world was asked for %s", q)
		}
	}
}

const testTCPClients = 20

func TestIdleTCPClientsAreBounded(t *testing.T) {
	c := startDNS(t, "", "53")
	for range testTCPClients {
		conn, err := net.Dial("tcp", c.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	question := new(dns.Msg).SetQuestion("dns-version.cluster.local.", dns.TypeTXT)
	if _, _, err := (&dns.Client{Net: "tcp", Timeout: 200 * time.Millisecond}).Exchange(question, c.addr); err == nil {
		t.Error("one client more was served")
	}
	if _, _, err := (&dns.Client{Net: "udp"}).Exchange(question, c.addr); err != nil {
		t.Errorf("by UDP: %v", err)
	}
	// Whoever only holds a connection loses it.
	if _, _, err := (&dns.Client{Net: "tcp", Timeout: 10 * time.Second}).Exchange(question, c.addr); err != nil {
		t.Errorf("after a while: %v", err)
	}
}

func TestSearchPathOfExternalNamesCostsOneQuery(t *testing.T) {
	up := startUpstream(t, "127.0.0.2", map[string]string{
		"www.example.com. A":         "192.0.2.53",
		"wiki.team.corp.example. A":  "192.0.2.80",
		"db-9.db. A":                 "192.0.2.66",
		"late. A":                    "192.0.2.67",
		"late.corp.example. A":       "192.0.2.68",
		"wiki.team. A":               "192.0.2.69",
		"six.example.com. AAAA":      "2001:db8::6",
		"web.default.example.net. A": "192.0.2.70",
	})
	c := startDNS(t, "nameserver 127.0.0.2\nsearch corp.example\n", up.port, shop()...)
	const search = ".default.svc.cluster.local."
	for _, tc := range []struct {
		name  string
		qtype uint16
		rcode int
		want  string
	}{
		{"www.example.com", dns.TypeA, dns.RcodeSuccess, "www.example.com. A 192.0.2.53\nwww.example.com" + search + " CNAME www.example.com."},
		// The name exists, without this type: the same decision for both of a pair.
		{"www.example.com", dns.TypeAAAA, dns.RcodeSuccess, "www.example.com" + search + " CNAME www.example.com."},
		{"six.example.com", dns.TypeA, dns.RcodeSuccess, "six.example.com" + search + " CNAME six.example.com."},
		// Another namespace's service, and a domain of the host's own search path,
		// come before the bare name, as the client would have it.
		{"api.other", dns.TypeA, dns.RcodeSuccess, "api.other" + search + " CNAME api.other.svc.cluster.local.\napi.other.svc.cluster.local. A 10.96.1.3"},
		{"api.other.svc", dns.TypeA, dns.RcodeSuccess, "api.other.svc" + search + " CNAME api.other.svc.cluster.local.\napi.other.svc.cluster.local. A 10.96.1.3"},
		{"wiki.team", dns.TypeA, dns.RcodeSuccess, "wiki.team" + search + " CNAME wiki.team.corp.example.\nwiki.team.corp.example. A 192.0.2.80"},
		// What may be a service that does not exist yet, or an endpoint that is not
		// ready yet, is not looked for elsewhere.
		{"late", dns.TypeA, dns.RcodeNameError, ""},
		{"db-9.db", dns.TypeA, dns.RcodeNameError, ""},
		{"_sip._tcp.example.com", dns.TypeSRV, dns.RcodeNameError, ""},
		{"nothing.example.com", dns.TypeA, dns.RcodeNameError, ""},
	} {
		m := c.query(tc.name+search, tc.qtype)
		want := strings.Split(tc.want, "\n")
		slices.Sort(want)
		if got := answers(m.Answer); m.Rcode != tc.rcode || got != strings.Join(want, "\n") {
			t.Errorf("%s %s: %s\n%s\nwant %s\n%s", tc.name, dns.TypeToString[tc.qtype], dns.RcodeToString[m.Rcode], got, dns.RcodeToString[tc.rcode], tc.want)
		}
	}
	for _, q := range up.takeAsked() {
		if strings.Contains(q, "cluster.local") || strings.HasPrefix(q, "late") || strings.HasPrefix(q, "db-9") {
			t.Errorf("the world was asked for %s", q)
		}
	}
	// Another namespace's path, and a resolver that fails, get the plain answer.
	if m := c.query("www.example.com.other.svc.cluster.local.", dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("the search path of another namespace was followed: %v", m)
	}
	up.rcode.Store(dns.RcodeServerFailure)
	if m := c.query("down.example.com"+search, dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("with a failing resolver: %s", dns.RcodeToString[m.Rcode])
	}
}

func TestForwarding(t *testing.T) {
	big := strings.Repeat(`"`+strings.Repeat("x", 200)+`"|`, 20)
	up := startUpstream(t, "127.0.0.2", map[string]string{"www.example.com. A": "192.0.2.53", "big.example.com. TXT": big, "8.8.8.8.in-addr.arpa. PTR": "dns.example."})
	c := startDNS(t, "nameserver 127.0.0.2", up.port)

	if m := c.query("WWW.example.com.", dns.TypeA); answers(m.Answer) != "WWW.example.com. A 192.0.2.53" || m.Authoritative || !m.RecursionAvailable {
		t.Errorf("got %v", m)
	}
	c.query("www.example.com.", dns.TypeA)
	if asked := up.takeAsked(); len(asked) != 1 {
		t.Errorf("asked upstream %v, want one question and then the cache", asked)
	}
	for range 2 {
		if m := c.query("nothing.example.com.", dns.TypeA); m.Rcode != dns.RcodeNameError || len(m.Ns) != 1 {
			t.Errorf("got %v", m)
		}
	}
	if asked := up.takeAsked(); len(asked) != 1 {
		t.Errorf("asked upstream %v, want the negative answer to be kept", asked)
	}
	if m := c.query("8.8.8.8.in-addr.arpa.", dns.TypePTR); len(m.Answer) != 1 {
		t.Errorf("an outside reverse name: %v", m)
	}

	// 4 KB fit neither our client's 512 bytes nor the upstream's datagram.
	if m := c.query("big.example.com.", dns.TypeTXT); !m.Truncated || m.Len() > dns.MinMsgSize {
		t.Errorf("by UDP: truncated=%v, %d bytes", m.Truncated, m.Len())
	}
	m, _, err := (&dns.Client{Net: "tcp"}).Exchange(new(dns.Msg).SetQuestion("big.example.com.", dns.TypeTXT), c.addr)
	if err != nil || m.Truncated || len(m.Answer) != 20 {
		t.Errorf("by TCP: %v, %v", m, err)
	}

	req := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
	req.SetEdns0(4096, false)
	m, _, err = new(dns.Client).Exchange(req, c.addr)
	if err != nil || m.IsEdns0() == nil || m.IsEdns0().UDPSize() != maxUDPSize {
		t.Errorf("EDNS: %v, %v", m, err)
	}
	req.Question[0].Qclass = dns.ClassCHAOS
	if m, _, err := new(dns.Client).Exchange(req, c.addr); err != nil || m.Rcode != dns.RcodeRefused {
		t.Errorf("class CH: %v, %v", m, err)
	}
}

func TestUpstreamsBackEachOtherUp(t *testing.T) {
	rrs := map[string]string{"a.example. A": "192.0.2.1", "b.example. A": "192.0.2.2", "c.example. A": "192.0.2.3"}
	second := startUpstream(t, "127.0.0.2", rrs)
	// Nobody listens at 127.0.0.3, and our own address would be a circle.
	c := startDNS(t, "nameserver 127.0.0.1\nnameserver 127.0.0.3\nnameserver 127.0.0.2\n", second.port)
	if m := c.query("a.example.", dns.TypeA); len(m.Answer) != 1 {
		t.Fatalf("got %v", m)
	}
	second.rcode.Store(dns.RcodeServerFailure)
	if m := c.query("b.example.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v", m)
	}
	second.rcode.Store(0)
	if m := c.query("b.example.", dns.TypeA); len(m.Answer) != 1 {
		t.Errorf("a failure was remembered: %v", m)
	}
}

func TestSlowUpstreamIsNotWaitedFor(t *testing.T) {
	rrs := map[string]string{"a.example. A": "192.0.2.1"}
	fast := startUpstream(t, "127.0.0.2", rrs)
	slow, err := net.ListenPacket("udp4", net.JoinHostPort("127.0.0.4", fast.port)) // never answers
	if err != nil {
		t.Skipf("port %s is taken on another loopback address: %v", fast.port, err)
	}
	defer slow.Close()
	c := startDNS(t, "nameserver 127.0.0.4\nnameserver 127.0.0.2\n", fast.port)
	start := time.Now()
	if m := c.query("a.example.", dns.TypeA); len(m.Answer) != 1 {
		t.Fatalf("got %v", m)
	}
	if took := time.Since(start); took > attemptTimeout {
		t.Errorf("took %v", took)
	}
}

func TestResolvConfIsReadAgain(t *testing.T) {
	second := startUpstream(t, "127.0.0.2", map[string]string{"a.example. A": "192.0.2.2"})
	c := startDNS(t, "# none yet\n", second.port)
	if m := c.query("a.example.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Fatalf("without a resolver: %v", m)
	}
	if err := os.WriteFile(c.resolv, []byte("options ndots:1\nnameserver 127.0.0.2 # new\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.server.forward.reload()
	if m := c.query("a.example.", dns.TypeA); answers(m.Answer) != "a.example. A 192.0.2.2" {
		t.Fatalf("got %v", m)
	}
}

func TestEqualQuestionsAreAskedOnce(t *testing.T) {
	up := startUpstream(t, "127.0.0.2", map[string]string{"a.example. A": "192.0.2.1"})
	up.delay.Store(int64(100 * time.Millisecond))
	c := startDNS(t, "nameserver 127.0.0.2", up.port)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { c.query("a.example.", dns.TypeA) })
	}
	wg.Wait()
	if asked := up.takeAsked(); len(asked) != 1 {
		t.Errorf("asked %d times", len(asked))
	}
}

func TestCacheCountsDownAndForgets(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCache(2, func() time.Time { return now })
	key := func(n string) cacheKey { return cacheKey{n, dns.TypeA, false} }
	put := func(n string, ttl int) {
		m := new(dns.Msg).SetQuestion(n, dns.TypeA)
		rr, _ := dns.NewRR(fmt.Sprintf("%s %d IN A 192.0.2.1", n, ttl))
		m.Answer = []dns.RR{rr}
		c.put(key(n), m)
	}
	put("a.", 60)
	now = now.Add(20 * time.Second)
	if m := c.get(key("a.")); m == nil || m.Answer[0].Header().Ttl != 40 {
		t.Errorf("after 20 s: %v", m)
	}
	now = now.Add(41 * time.Second)
	if m := c.get(key("a.")); m != nil {
		t.Errorf("after 61 s: %v", m)
	}
	put("b.", 0)
	if c.get(key("b.")) != nil {
		t.Error("a record that must not be kept was")
	}
	put("c.", 60)
	put("d.", 60)
	c.get(key("c."))
	put("e.", 60)
	if c.get(key("c.")) == nil || c.get(key("d.")) != nil || c.get(key("e.")) == nil {
		t.Error("the least recently used answer should have made room")
	}
}

// BenchmarkService is the server's work for one name of the cluster.
func BenchmarkService(b *testing.B) {
	c := startDNS(b, "", "", shop()...)
	req := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
	client := netip.MustParseAddr("127.0.0.1")
	b.ReportAllocs()
	for b.Loop() {
		if m := c.server.answer(req, client); len(m.Answer) != 1 {
			b.Fatal(m)
		}
	}
}
