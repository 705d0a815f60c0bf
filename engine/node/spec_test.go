package node

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/engine/node/volume"
)

func envOf(t *testing.T, pod *v1.Pod, base []string, objects ...*v1.ConfigMap) (map[string]string, error) {
	t.Helper()
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for _, s := range []*v1.Service{
		{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default"}, Spec: v1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []v1.ServicePort{{Port: 443, Protocol: v1.ProtocolTCP}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "my-db", Namespace: "shop"}, Spec: v1.ServiceSpec{ClusterIP: "10.96.0.7", Ports: []v1.ServicePort{{Port: 5432, Protocol: v1.ProtocolTCP}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "headless", Namespace: "shop"}, Spec: v1.ServiceSpec{ClusterIP: v1.ClusterIPNone}},
	} {
		if err := services.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	client := fake.NewClientset()
	for _, o := range objects {
		if _, err := client.CoreV1().ConfigMaps(o.Namespace).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	src := &envSource{client: client, services: corelisters.NewServiceLister(services), hostIP: "192.0.2.1", podIPs: []string{"10.244.0.9"},
		allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}}
	e, err := src.resolve(t.Context(), pod, &pod.Spec.Containers[0])
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, kv := range e.list(base) {
		k, v, _ := strings.Cut(kv, "=")
		if _, twice := out[k]; twice {
			t.Errorf("%s is there twice", k)
		}
		out[k] = v
	}
	return out, nil
}

func TestEnvironmentComesFromEverywhere(t *testing.T) {
	pod := aPod("web", v1.Container{Name: "a"})
	pod.Namespace = "shop"
	c := &pod.Spec.Containers[0]
	c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}
	c.EnvFrom = []v1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}}}}
	field := func(path string) *v1.EnvVarSource {
		return &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}
	}
	optional := true
	c.Env = []v1.EnvVar{
		{Name: "A", Value: "1"},
		{Name: "B", Value: "$(A)-$(P_k)-$(MY_DB_SERVICE_HOST)-$(UNKNOWN)-$$(A)"},
		{Name: "IP", ValueFrom: field("status.podIP")}, {Name: "NAME", ValueFrom: field("metadata.name")}, {Name: "HOST", ValueFrom: field("status.hostIP")},
		{Name: "MEM", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
		{Name: "CPU", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.cpu"}}},
		{Name: "GONE", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "no"}, Key: "k", Optional: &optional}}},
		{Name: "PATH", Value: "/mine"},
	}
	cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Namespace: "shop"}, Data: map[string]string{"k": "v"}}
	got, err := envOf(t, pod, []string{"PATH=/bin", "LANG=C"}, cm)
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{
		"P_k": "v", "B": "1-v-10.96.0.7-$(UNKNOWN)-$(A)", "IP": "10.244.0.9", "NAME": "web", "HOST": "192.0.2.1", "MEM": "64", "CPU": "2",
		"PATH": "/mine", "LANG": "C", "KUBERNETES_SERVICE_HOST": "10.96.0.1", "MY_DB_PORT": "tcp://10.96.0.7:5432",
	} {
		if got[k] != want {
			t.Errorf("%s is %q, want %q", k, got[k], want)
		}
	}
	if _, ok := got["GONE"]; ok {
		t.Error("an absent optional value is set")
	}
	no := false
	pod.Spec.EnableServiceLinks = &no
	if got, _ = envOf(t, pod, nil, cm); got["MY_DB_PORT"] != "" || got["KUBERNETES_SERVICE_HOST"] == "" {
		t.Error("without service links only the API's service is told")
	}
	if _, err = envOf(t, pod, nil); err == nil || !strings.Contains(err.Error(), `"cm" not found`) {
		t.Errorf("an absent ConfigMap gives %v", err)
	}
}

func TestUserIsResolvedInsideTheImage(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	// The link's target exists on the host too, with other users: it must not count.
	if err := os.WriteFile(root+"/etc/passwd.real", []byte("root:x:0:0::/:/sh\napp:x:77:78::/:/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../../etc/passwd.real", root+"/etc/passwd"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/etc/group", []byte("app:x:78:\nextra:x:90:app\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	pod := aPod("web", v1.Container{Name: "a"})
	fs := int64(2000)
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &fs, SupplementalGroups: []int64{500}}
	u, err := identity(pod, &pod.Spec.Containers[0], "app", root)
	if err != nil {
		t.Fatal(err)
	}
	if u.UID != 77 || u.GID != 78 || !slices.Equal(u.AdditionalGroups, []uint32{90, 500, 2000}) {
		t.Errorf("got %+v", u)
	}
	yes, uid := true, int64(0)
	sc := &v1.SecurityContext{RunAsNonRoot: &yes}
	pod.Spec.Containers[0].SecurityContext = sc
	for image, want := range map[string]string{"": "will run as root", "0": "will run as root", "app": "non-numeric user"} {
		if _, err := identity(pod, &pod.Spec.Containers[0], image, root); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("image user %q with runAsNonRoot: %v", image, err)
		}
	}
	if _, err := identity(pod, &pod.Spec.Containers[0], "77:78", root); err != nil {
		t.Errorf("a numeric user is refused: %v", err)
	}
	sc.RunAsUser = &uid
	if _, err := identity(pod, &pod.Spec.Containers[0], "77", root); err == nil {
		t.Error("runAsUser 0 is let through with runAsNonRoot")
	}
}

func TestProfilesOfAContainerComeBeforeThoseOfItsPod(t *testing.T) {
	localhost := func(name string) *v1.SeccompProfile {
		return &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: &name}
	}
	armor := func(name string) *v1.AppArmorProfile {
		return &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	n := &Node{cfg: Config{DataDir: t.TempDir()}}
	profiles := filepath.Join(n.cfg.DataDir, "seccomp")
	if err := os.Mkdir(profiles, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pods.json", "own.json"} {
		if err := os.WriteFile(filepath.Join(profiles, name), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	both := v1.PodSecurityContext{SeccompProfile: localhost("pods.json"), AppArmorProfile: armor("pods")}
	own := &v1.SecurityContext{SeccompProfile: localhost("own.json"), AppArmorProfile: armor("own")}
	for name, tt := range map[string]struct {
		pod            v1.PodSecurityContext
		own            *v1.SecurityContext
		seccomp, armor string
	}{
		"nobody's":        {v1.PodSecurityContext{}, nil, "", ""},
		"the container's": {v1.PodSecurityContext{}, own, "own.json", "own"},
		"the pod's":       {both, &v1.SecurityContext{}, "pods.json", "pods"},
		"the pod's, where the container has no context": {both, nil, "pods.json", "pods"},
		"both": {both, own, "own.json", "own"},
	} {
		pod := aPod("web", v1.Container{Name: "a", SecurityContext: tt.own})
		pod.Spec.SecurityContext = &tt.pod
		s, err := n.security(pod, &pod.Spec.Containers[0])
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimPrefix(s.SeccompProfile, profiles+"/"); got != tt.seccomp || s.AppArmorProfile != tt.armor {
			t.Errorf("%s: profiles %q and %q, want %q and %q", name, got, s.AppArmorProfile, tt.seccomp, tt.armor)
		}
	}
	pod := aPod("web", v1.Container{Name: "a"})
	pod.Spec.SecurityContext.SeccompProfile = localhost("none.json")
	if _, err := n.security(pod, &pod.Spec.Containers[0]); err == nil || !strings.Contains(err.Error(), "put the profile there") {
		t.Errorf("a profile that is not there: %v", err)
	}
}

func TestCommandAndArgsCombineWithTheImage(t *testing.T) {
	img := &image.Image{Config: ocispec.Image{Config: ocispec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}}}}
	for _, tt := range []struct {
		command, args []string
		want          string
	}{
		{nil, nil, "/entry cmd"}, {nil, []string{"$(X)"}, "/entry y"}, {[]string{"/c"}, nil, "/c"}, {[]string{"/c"}, []string{"a", "$$(X)"}, "/c a $(X)"},
	} {
		b := &build{c: &v1.Container{Command: tt.command, Args: tt.args}, image: img, env: &env{values: map[string]string{"X": "y"}}}
		if got := strings.Join(b.args(), " "); got != tt.want {
			t.Errorf("command %q, args %q: %q, want %q", tt.command, tt.args, got, tt.want)
		}
	}
}

func TestResourcesBecomeCgroupValues(t *testing.T) {
	pod := aPod("web", v1.Container{Name: "a", Resources: v1.ResourceRequirements{
		Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")},
		Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m"), v1.ResourceMemory: resource.MustParse("64Mi"), "hugepages-2Mi": resource.MustParse("4Mi")},
	}}, v1.Container{Name: "b"})
	r := containerResources(pod, &pod.Spec.Containers[0], 8<<30)
	if r.CPUShares != 256 || r.CPUQuota != 150000 || r.CPUPeriod != 100000 || r.MemoryLimit != 64<<20 || r.Hugepages["2MB"] != 4<<20 {
		t.Errorf("container: %+v", r)
	}
	if r = containerResources(pod, &pod.Spec.Containers[1], 8<<30); r.CPUShares != 2 || r.CPUQuota != 0 || r.MemoryLimit != 0 {
		t.Errorf("container without resources: %+v", r)
	}
	pod.Spec.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Gi")}}
	if r = containerResources(pod, &pod.Spec.Containers[1], 8<<30); r.MemoryLimit != 1<<30 {
		t.Errorf("container without limits in a pod with one: %+v", r)
	}
}

func TestResolvConfFollowsThePolicy(t *testing.T) {
	n := &Node{cfg: Config{ClusterDomain: "cluster.local", Network: &fakeNetwork{}}}
	value := "2"
	config := &v1.PodDNSConfig{Nameservers: []string{"9.9.9.9"}, Searches: []string{"my.org"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: &value}, {Name: "edns0"}}}
	for _, tt := range []struct {
		policy v1.DNSPolicy
		config *v1.PodDNSConfig
		host   bool
		want   []string
		not    string
	}{
		{v1.DNSClusterFirst, nil, false, []string{"search web-ns.svc.cluster.local svc.cluster.local cluster.local", "nameserver 10.96.0.10", "options ndots:5"}, ""},
		{v1.DNSClusterFirst, nil, true, nil, "10.96.0.10"},
		{v1.DNSClusterFirstWithHostNet, nil, true, []string{"nameserver 10.96.0.10"}, ""},
		{v1.DNSNone, config, false, []string{"search my.org\nnameserver 9.9.9.9\noptions ndots:2 edns0\n"}, "10.96"},
		{v1.DNSClusterFirst, config, false, []string{"nameserver 10.96.0.10\nnameserver 9.9.9.9\noptions ndots:2 edns0\n", "my.org"}, "ndots:5"},
	} {
		pod := aPod("web", v1.Container{Name: "a"})
		pod.Namespace, pod.Spec.DNSPolicy, pod.Spec.DNSConfig, pod.Spec.HostNetwork = "web-ns", tt.policy, tt.config, tt.host
		data, err := n.resolvConf(pod)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			if !strings.Contains(string(data), want) {
				t.Errorf("%s: %q is not in\n%s", tt.policy, want, data)
			}
		}
		if tt.not != "" && strings.Contains(string(data), tt.not) {
			t.Errorf("%s: %q is in\n%s", tt.policy, tt.not, data)
		}
	}
}

func TestHostsFileNamesThePod(t *testing.T) {
	n := &Node{cfg: Config{ClusterDomain: "cluster.local"}}
	pod := aPod("web-0", v1.Container{Name: "a"})
	pod.Spec.Subdomain = "web"
	pod.Spec.HostAliases = []v1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"x", "y"}}}
	s := &sandbox{Hostname: podHostname(pod, "host"), IPs: []string{"10.244.0.9"}}
	data, err := n.hostsFile(pod, s, podDomain(pod, "cluster.local"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{managedHosts, "127.0.0.1\tlocalhost", "10.244.0.9\tweb-0.web.default.svc.cluster.local\tweb-0\n", "1.2.3.4\tx\ty\n"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%q is not in\n%s", want, data)
		}
	}
	pod.Name = strings.Repeat("a", 62) + "-b"
	pod.Spec.Hostname = ""
	if got := podHostname(pod, "host"); len(got) > 63 || strings.HasSuffix(got, "-") {
		t.Errorf("hostname %q", got)
	}
}

func TestPauseProgramIsAValidExecutable(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		data, err := pauseProgram(arch)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != machine || f.Type != elf.ET_EXEC || len(f.Progs) != 1 || f.Progs[0].Filesz != uint64(len(data)) {
			t.Errorf("%s: %+v", arch, f.FileHeader)
		}
	}
	if _, err := pauseProgram("mips"); err == nil {
		t.Error("an unknown architecture is not refused")
	}
}

func TestAdmissionSaysWhatToChange(t *testing.T) {
	n := &Node{cfg: Config{UnsafeSysctls: []string{"net.core.*"}}}
	sysctl := func(name string) *v1.Pod {
		p := aPod("web", v1.Container{Name: "a"})
		p.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: name, Value: "1"}}}
		return p
	}
	for name, ok := range map[string]bool{
		"net.ipv4.ip_unprivileged_port_start": true, "kernel.shm_rmid_forced": true, "net.core.somaxconn": true,
		"net.ipv4.ip_forward": false, "kernel.panic": false, "vm.swappiness": false,
	} {
		if v := n.admit(sysctl(name)); (v == nil) != ok || v != nil && !strings.Contains(v.Message, name) {
			t.Errorf("sysctl %s: %+v", name, v)
		}
	}
	p := sysctl("net.ipv4.ip_unprivileged_port_start")
	p.Spec.HostNetwork = true
	if n.admit(p) == nil {
		t.Error("a sysctl of the host's network is let through")
	}
}

func TestAPodWithATakenHostPortIsRefused(t *testing.T) {
	port := func(name, ip string, number int32, protocol v1.Protocol) *v1.Pod {
		return aPod(name, v1.Container{Name: "a", Ports: []v1.ContainerPort{{HostPort: number, HostIP: ip, Protocol: protocol}}})
	}
	first := port("first", "", 8080, v1.ProtocolTCP)
	if v := admitHostPorts(port("second", "127.0.0.1", 8080, v1.ProtocolTCP), []*v1.Pod{first}); v == nil || !strings.Contains(v.Message, "default/first") {
		t.Errorf("the same port on one of the addresses: %+v", v)
	}
	for _, p := range []*v1.Pod{port("second", "", 8080, v1.ProtocolUDP), port("second", "", 8081, v1.ProtocolTCP), aPod("second", v1.Container{Name: "a"})} {
		if v := admitHostPorts(p, []*v1.Pod{first}); v != nil {
			t.Errorf("%v: %+v", p.Spec.Containers[0].Ports, v)
		}
	}
}

func TestContainerIDsAreStableAndValid(t *testing.T) {
	for _, uid := range []types.UID{"0b5c5bf4-5a09-4b4b-9d35-9ad9c8b8d3f6", "Odd_UID/with:signs", types.UID(strings.Repeat("x", 100))} {
		id := containerID(uid, "main", 12)
		if len(id) > 64 || strings.ToLower(id) != id || strings.ContainsAny(id, "/:_") || id != containerID(uid, "main", 12) {
			t.Errorf("uid %q: id %q", uid, id)
		}
		if id == containerID(uid, "main", 13) || id == containerID(uid, "other", 12) {
			t.Errorf("uid %q: two runs have one id", uid)
		}
	}
}

func TestRecursiveReadOnlyIsNotSilentlyLess(t *testing.T) {
	enabled, possible := v1.RecursiveReadOnlyEnabled, v1.RecursiveReadOnlyIfPossible
	b := &build{sandbox: &sandbox{}, c: &v1.Container{Name: "a"}, volumes: map[string]volume.Volume{"v": {Path: t.TempDir()}}}
	if m, err := b.volumeMount(0, &v1.VolumeMount{Name: "v", MountPath: "/v", ReadOnly: true, RecursiveReadOnly: &enabled}); err == nil {
		t.Errorf("a promise that is not kept: %+v", m)
	}
	if m, err := b.volumeMount(0, &v1.VolumeMount{Name: "v", MountPath: "/v", ReadOnly: true, RecursiveReadOnly: &possible}); err != nil || !m.ReadOnly {
		t.Errorf("%+v, %v", m, err)
	}
}
