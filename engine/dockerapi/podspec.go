package dockerapi

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	types "github.com/moby/moby/api/types/container"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	containerName    = "main"
	annotationKept   = "gantry.dev/kept-root" // engine/node's KeptRootAnnotation
	annotationExtras = "gantry.dev/extras"    // engine/node's ExtrasAnnotation
	annotationName   = "gantry.dev/docker-name"
	labelNetwork     = "network.docker.gantry.dev/" // and the network's short id
	defaultStopTime  = 10                           // seconds
)

// podOf is the pod of a container.
func (s *Server) podOf(r *record, name string, at *published) (*v1.Pod, error) {
	extras, joins, err := s.extrasOf(r)
	if err != nil {
		return nil, err
	}
	links, token := false, false
	grace := int64(stopTimeout(r))
	c := v1.Container{
		Name: containerName, Image: r.Image, ImagePullPolicy: v1.PullIfNotPresent,
		Command: escape(r.Command), Args: escape(r.Args), WorkingDir: r.Config.WorkingDir,
		Env: environment(r.Config.Env), Ports: at.ports,
		Stdin: r.Config.OpenStdin, StdinOnce: r.Config.StdinOnce, TTY: r.Config.Tty,
		Resources: resourcesOf(r.HostConfig), SecurityContext: securityOf(r), ReadinessProbe: probeOf(r),
	}
	if len(c.Command) == 0 { // args alone would be given to the image's entrypoint
		c.Command, c.Args = c.Args, nil
	}
	spec := v1.PodSpec{
		RestartPolicy: restartPolicyOf(r.HostConfig.RestartPolicy), TerminationGracePeriodSeconds: &grace,
		EnableServiceLinks: &links, AutomountServiceAccountToken: &token,
		HostNetwork: joins.network, HostPID: joins.pids, HostIPC: joins.ipc,
		DNSPolicy: v1.DNSClusterFirst, DNSConfig: s.dnsOf(r),
	}
	s.nameThings(r, &spec)
	if init := r.HostConfig.Init; init != nil && *init && !spec.HostPID && extras.PIDsOf == "" {
		spec.ShareProcessNamespace = init // its first process reaps orphans and passes nothing off as pid 1
	}
	if spec.RuntimeClassName, err = runtimeOf(r.HostConfig.Runtime); err != nil {
		return nil, err
	}
	if spec.HostAliases, err = s.hostAliases(r); err != nil {
		return nil, err
	}
	spec.SecurityContext = &v1.PodSecurityContext{SupplementalGroups: r.Groups}
	for _, k := range sortedKeys(r.HostConfig.Sysctls) {
		spec.SecurityContext.Sysctls = append(spec.SecurityContext.Sysctls, v1.Sysctl{Name: k, Value: r.HostConfig.Sysctls[k]})
	}
	if signal := r.Config.StopSignal; signal != "" {
		if name, known := signalName(signal); known {
			stop := v1.Signal(name)
			c.Lifecycle, spec.OS = &v1.Lifecycle{StopSignal: &stop}, &v1.PodOS{Name: v1.Linux}
		}
	}
	mountInto(r, &spec, &c)
	spec.Containers = []v1.Container{c}
	labels := map[string]string{labelID: r.ID[:32]}
	for network := range r.Networks {
		labels[s.networkLabel(network)] = "true"
	}
	for _, p := range at.shared {
		labels[p.label()], _ = portOwner(r)
	}
	annotations := merged(r.HostConfig.Annotations, map[string]string{annotationKept: r.ID, annotationName: r.Name})
	if annotations[annotationExtras], err = extrasText(extras); err != nil {
		return nil, err
	}
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace, Labels: labels, Annotations: annotations},
		Spec:       spec,
	}, nil
}

// podName is the container's own name where it can be, so that kubectl shows it.
func podName(r *record) string {
	name := strings.ToLower(strings.ReplaceAll(r.Name, "_", "-"))
	if len(validation.IsDNS1123Label(name)) > 0 {
		return "container-" + short(r.ID)
	}
	return name
}

func stopTimeout(r *record) int {
	if t := r.Config.StopTimeout; t != nil && *t >= 0 {
		return max(*t, 1)
	}
	return defaultStopTime
}

func restartPolicyOf(p types.RestartPolicy) v1.RestartPolicy {
	switch {
	case p.IsAlways(), p.IsUnlessStopped():
		return v1.RestartPolicyAlways
	case p.IsOnFailure():
		return v1.RestartPolicyOnFailure
	}
	return v1.RestartPolicyNever
}

// escape protects words from Kubernetes' expansion of $(NAME).
func escape(words []string) []string {
	var out []string
	for _, w := range words {
		out = append(out, escapeWord(w))
	}
	return out
}

func escapeWord(w string) string {
	if strings.Contains(w, "$(") || strings.Contains(w, "$$") {
		return strings.ReplaceAll(w, "$", "$$")
	}
	return w
}

func environment(list []string) []v1.EnvVar {
	at := map[string]int{}
	var vars []v1.EnvVar
	for _, kv := range list {
		name, value, hasValue := strings.Cut(kv, "=")
		if !hasValue || name == "" {
			continue // a name alone removes what the image sets; there is no value to give
		}
		v := v1.EnvVar{Name: name, Value: escapeWord(value)}
		if i, again := at[name]; again {
			vars[i] = v // the last one counts
			continue
		}
		at[name] = len(vars)
		vars = append(vars, v)
	}
	return vars
}

// resourcesOf translates limits. Docker reserves nothing unless told to, where Kubernetes
// would reserve the limit, so an absent reservation is written as 0. All containers are
// burstable, for the class of a pod cannot change when its limits do.
func resourcesOf(h *types.HostConfig) v1.ResourceRequirements {
	limits, requests := v1.ResourceList{}, v1.ResourceList{v1.ResourceCPU: resource.MustParse("1m")}
	if h.Memory > 0 {
		limits[v1.ResourceMemory] = *resource.NewQuantity(h.Memory, resource.BinarySI)
		requests[v1.ResourceMemory] = resource.MustParse("0")
	}
	if h.MemoryReservation > 0 {
		requests[v1.ResourceMemory] = *resource.NewQuantity(h.MemoryReservation, resource.BinarySI)
	}
	if milli := milliCPUs(h); milli > 0 {
		limits[v1.ResourceCPU] = *resource.NewMilliQuantity(milli, resource.DecimalSI)
	}
	if h.CPUShares > 0 { // a weight; the node makes 1024 shares of a requested core
		requests[v1.ResourceCPU] = *resource.NewMilliQuantity(max(1, h.CPUShares*1000/1024), resource.DecimalSI)
	}
	return v1.ResourceRequirements{Limits: limits, Requests: requests}
}

func milliCPUs(h *types.HostConfig) int64 {
	if h.NanoCPUs > 0 {
		return int64(math.Ceil(float64(h.NanoCPUs) / 1e6))
	}
	if h.CPUQuota > 0 {
		period := h.CPUPeriod
		if period == 0 {
			period = 100_000
		}
		return int64(math.Ceil(float64(h.CPUQuota) * 1000 / float64(period)))
	}
	return 0
}

func securityOf(r *record) *v1.SecurityContext {
	h := r.HostConfig
	sc := &v1.SecurityContext{RunAsUser: r.UID, RunAsGroup: r.GID}
	if len(h.CapAdd)+len(h.CapDrop) > 0 {
		sc.Capabilities = &v1.Capabilities{Add: capabilities(h.CapAdd), Drop: capabilities(h.CapDrop)}
	}
	if h.ReadonlyRootfs {
		sc.ReadOnlyRootFilesystem = &h.ReadonlyRootfs
	}
	if h.Privileged {
		sc.Privileged = &h.Privileged
	}
	if securityOption(h, "no-new-privileges", "no-new-privileges=true") {
		sc.AllowPrivilegeEscalation = new(bool)
	}
	if securityOption(h, "seccomp=unconfined") {
		sc.SeccompProfile = &v1.SeccompProfile{Type: v1.SeccompProfileTypeUnconfined}
	} else if !h.Privileged {
		sc.SeccompProfile = &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}
	}
	sc.AppArmorProfile = appArmorOf(h)
	if securityOption(h, "systempaths=unconfined") || h.MaskedPaths != nil && len(h.MaskedPaths) == 0 {
		unmasked := v1.UnmaskedProcMount
		sc.ProcMount = &unmasked
	}
	return sc
}

// appArmorOf is the profile of --security-opt apparmor=, nil for the default one.
func appArmorOf(h *types.HostConfig) *v1.AppArmorProfile {
	for _, option := range h.SecurityOpt {
		switch name, is := strings.CutPrefix(strings.Replace(option, ":", "=", 1), "apparmor="); {
		case !is || name == "docker-default":
		case name == "unconfined":
			return &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeUnconfined}
		default:
			return &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
		}
	}
	return nil
}

func capabilities(names []string) []v1.Capability {
	var caps []v1.Capability
	for _, name := range names {
		caps = append(caps, v1.Capability(strings.TrimPrefix(strings.ToUpper(name), "CAP_")))
	}
	return caps
}

// probeOf makes a health check a readiness probe: it is told, and nothing is restarted.
func probeOf(r *record) *v1.Probe {
	if !hasHealthcheck(r) {
		return nil
	}
	h := r.Config.Healthcheck
	var command []string
	switch h.Test[0] {
	case "CMD":
		command = h.Test[1:]
	case "CMD-SHELL":
		shell := r.Config.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		command = append(slices.Clone(shell), h.Test[1:]...)
	default:
		command = h.Test
	}
	seconds := func(d, otherwise time.Duration) int32 {
		return int32(max(1, math.Ceil(orElse(d, otherwise).Seconds())))
	}
	return &v1.Probe{
		ProbeHandler:   v1.ProbeHandler{Exec: &v1.ExecAction{Command: command}},
		TimeoutSeconds: seconds(h.Timeout, 30*time.Second), PeriodSeconds: seconds(h.Interval, 30*time.Second),
		FailureThreshold: int32(retries(h)),
	}
}

// nameThings says what a pod is called and who tells it names.
func (s *Server) nameThings(r *record, spec *v1.PodSpec) {
	if !spec.HostNetwork {
		spec.Hostname = r.Config.Hostname
	} else {
		spec.DNSPolicy = v1.DNSDefault
	}
	if len(r.HostConfig.DNS) > 0 && !s.hasNames(r) {
		spec.DNSPolicy = v1.DNSNone // those servers alone
	}
}

// hasNames is whether a container is in a network whose names the cluster's DNS tells it.
func (s *Server) hasNames(r *record) bool {
	for network := range r.Networks {
		if s.networkDomain(network) != "" {
			return true
		}
	}
	return false
}

// dnsOf adds the domains of the container's networks, in which its neighbours are found
// by their names alone.
func (s *Server) dnsOf(r *record) *v1.PodDNSConfig {
	dns := v1.PodDNSConfig{Searches: slices.Clone(r.HostConfig.DNSSearch)}
	for _, network := range sortedKeys(r.Networks) {
		if domain := s.networkDomain(network); domain != "" {
			dns.Searches = append(dns.Searches, domain)
		}
	}
	for _, server := range r.HostConfig.DNS {
		dns.Nameservers = append(dns.Nameservers, server.String())
	}
	for _, option := range r.HostConfig.DNSOptions {
		name, value, ok := strings.Cut(option, ":")
		o := v1.PodDNSConfigOption{Name: name}
		if ok {
			o.Value = &value
		}
		dns.Options = append(dns.Options, o)
	}
	return &dns
}

func (s *Server) hostAliases(r *record) ([]v1.HostAlias, error) {
	var aliases []v1.HostAlias
	for _, entry := range r.HostConfig.ExtraHosts {
		host, ip, ok := strings.Cut(strings.Replace(entry, "=", ":", 1), ":")
		ip = strings.Trim(ip, "[]")
		if !ok || host == "" {
			return nil, invalid("bad format for add-host: %q", entry)
		}
		if ip == "host-gateway" {
			ip = s.cfg.HostIP.String()
		}
		aliases = append(aliases, v1.HostAlias{IP: ip, Hostnames: []string{host}})
	}
	return aliases, nil
}

// mountInto adds a container's mounts to its pod.
func mountInto(r *record, spec *v1.PodSpec, c *v1.Container) {
	for i, m := range r.Mounts {
		name := "mount-" + strconv.Itoa(i)
		if m.Type == "tmpfs" { // the node mounts it
			continue
		}
		source := v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: m.Source}}
		mount := v1.VolumeMount{Name: name, MountPath: filepath.Clean(m.Destination), ReadOnly: m.ReadOnly}
		switch m.Propagation {
		case "rshared", "shared":
			p := v1.MountPropagationBidirectional
			mount.MountPropagation = &p
		case "rslave", "slave":
			p := v1.MountPropagationHostToContainer
			mount.MountPropagation = &p
		}
		spec.Volumes = append(spec.Volumes, v1.Volume{Name: name, VolumeSource: source})
		c.VolumeMounts = append(c.VolumeMounts, mount)
	}
}

// portRange reads a host port: "" and "0" mean any, "8000-8010" one of these.
func portRange(text string) (low, high int, err error) {
	if text == "" || text == "0" {
		return 0, 0, nil
	}
	from, to, isRange := strings.Cut(text, "-")
	if low, err = strconv.Atoi(from); err != nil {
		return 0, 0, fmt.Errorf("%q is not a port", text)
	}
	high = low
	if isRange {
		if high, err = strconv.Atoi(to); err != nil {
			return 0, 0, fmt.Errorf("%q is not a range of ports", text)
		}
	}
	if low < 1 || high > 65535 || low > high {
		return 0, 0, fmt.Errorf("%q is not a port between 1 and 65535", text)
	}
	return low, high, nil
}
