package app

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Compose waits this long between SIGTERM and SIGKILL unless told otherwise.
const composeGracePeriod = 10 * time.Second

// podTemplate translates everything of a service that concerns its container.
func (c *compose) podTemplate(s types.ServiceConfig) (corev1.PodTemplateSpec, error) {
	container := corev1.Container{
		Name:       c.names[s.Name],
		Image:      c.imageName(s),
		Command:    escapeAll(s.Entrypoint),
		Args:       escapeAll(s.Command),
		WorkingDir: s.WorkingDir,
		Env:        environment(s.Environment),
		Stdin:      s.StdinOpen,
		TTY:        s.Tty,
		Ports:      containerPorts(s),
		Resources:  resources(s),
	}
	grace := composeGracePeriod
	if s.StopGracePeriod != nil {
		grace = time.Duration(*s.StopGracePeriod)
	}
	links, token := false, false
	spec := corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(seconds(grace))),
		EnableServiceLinks:            &links,
		AutomountServiceAccountToken:  &token,
		Hostname:                      s.Hostname,
		HostNetwork:                   s.NetworkMode == "host",
		HostPID:                       s.Pid == "host",
		HostIPC:                       s.Ipc == "host",
	}
	if s.Runtime != "" && s.Runtime != "runc" {
		spec.RuntimeClassName = &s.Runtime
	}
	container.ImagePullPolicy = c.pullPolicy(s)
	c.probes(s, &container)
	c.hooks(s, &spec, &container)
	c.nameResolution(s, &spec)
	if err := c.security(s, &spec, &container); err != nil {
		return corev1.PodTemplateSpec{}, err
	}
	hash, err := c.mounts(s, &spec, &container)
	if err != nil {
		return corev1.PodTemplateSpec{}, err
	}
	annotations := merge(map[string]string(s.Annotations), map[string]string(s.Labels))
	if hash != "" {
		annotations = merge(annotations, map[string]string{"gantry.dev/configs": hash})
	}
	spec.Containers = []corev1.Container{container}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{
			Labels:      merge(c.selector(s.Name), map[string]string{labelManagedBy: managedBy}),
			Annotations: annotations,
		},
		Spec: spec,
	}, nil
}

// environment is sorted, so that equal files give equal pods. A variable without
// a value is one that the caller's environment does not set: Compose leaves it out.
func environment(env types.MappingWithEquals) []corev1.EnvVar {
	var vars []corev1.EnvVar
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if env[name] != nil {
			vars = append(vars, corev1.EnvVar{Name: name, Value: escape(*env[name])})
		}
	}
	return vars
}

// escape protects text from Kubernetes' own $(VARIABLE) expansion, in which $$
// stands for one dollar. It happens in environment, command and arguments, not in
// probes and hooks.
func escape(s string) string {
	if strings.Contains(s, "$(") || strings.Contains(s, "$$") {
		return strings.ReplaceAll(s, "$", "$$")
	}
	return s
}

func escapeAll(words []string) []string {
	if words == nil {
		return nil
	}
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = escape(w)
	}
	return out
}

// resources: Compose reserves nothing unless told to, while Kubernetes would
// reserve as much as the limit allows, so an absent reservation is written as 0.
func resources(s types.ServiceConfig) corev1.ResourceRequirements {
	limits, requests := corev1.ResourceList{}, corev1.ResourceList{}
	set := func(list corev1.ResourceList, cpus float32, memory types.UnitBytes) {
		if cpus > 0 {
			list[corev1.ResourceCPU] = *resource.NewMilliQuantity(int64(math.Round(float64(cpus)*1000)), resource.DecimalSI)
		}
		if memory > 0 {
			list[corev1.ResourceMemory] = *resource.NewQuantity(int64(memory), resource.BinarySI)
		}
	}
	set(limits, s.CPUS, s.MemLimit)
	set(requests, 0, s.MemReservation)
	if s.Deploy != nil {
		if l := s.Deploy.Resources.Limits; l != nil {
			set(limits, l.NanoCPUs.Value(), l.MemoryBytes)
		}
		if r := s.Deploy.Resources.Reservations; r != nil {
			set(requests, r.NanoCPUs.Value(), r.MemoryBytes)
		}
	}
	for name := range limits {
		if _, ok := requests[name]; !ok {
			requests[name] = resource.MustParse("0")
		}
	}
	return corev1.ResourceRequirements{Limits: limits, Requests: requests}
}

// probes: the startup probe asks every second (or start_interval), so that a
// container is known to be ready soon after it is; then the readiness probe asks
// at Compose's pace. A container that never becomes healthy within start_period
// plus retries is restarted.
func (c *compose) probes(s types.ServiceConfig, container *corev1.Container) {
	h := s.HealthCheck
	if h == nil || h.Disable || len(h.Test) == 0 || h.Test[0] == "NONE" {
		return
	}
	var command []string
	switch h.Test[0] {
	case "CMD":
		command = h.Test[1:]
	case "CMD-SHELL":
		command = append([]string{"/bin/sh", "-c"}, h.Test[1:]...)
	default:
		command = h.Test
	}
	retries := int32(3)
	if h.Retries != nil {
		retries = max(1, int32(*h.Retries))
	}
	interval := duration(h.Interval, 30*time.Second)
	timeout := max(1, seconds(duration(h.Timeout, 30*time.Second)))
	action := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: command}}
	container.ReadinessProbe = &corev1.Probe{
		ProbeHandler: action, TimeoutSeconds: timeout, PeriodSeconds: max(1, seconds(interval)), FailureThreshold: retries,
	}
	pace := duration(h.StartInterval, time.Second)
	patience := duration(h.StartPeriod, 0) + time.Duration(retries)*interval
	container.StartupProbe = &corev1.Probe{
		ProbeHandler: action, TimeoutSeconds: timeout, PeriodSeconds: max(1, seconds(pace)),
		FailureThreshold: max(1, int32(patience/max(pace, time.Second))),
	}
}

func (c *compose) hooks(s types.ServiceConfig, spec *corev1.PodSpec, container *corev1.Container) {
	hook := func(field string, hooks []types.ServiceHook) *corev1.LifecycleHandler {
		if len(hooks) == 0 {
			return nil
		}
		if len(hooks) > 1 {
			c.app.warnf("%s: services.%s.%s: only the first of %d commands runs", c.file, s.Name, field, len(hooks))
		}
		return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: hooks[0].Command}}
	}
	lifecycle := corev1.Lifecycle{PostStart: hook("post_start", s.PostStart), PreStop: hook("pre_stop", s.PreStop)}
	if s.StopSignal != "" {
		signal := corev1.Signal("SIG" + strings.TrimPrefix(strings.ToUpper(s.StopSignal), "SIG"))
		lifecycle.StopSignal = &signal
		spec.OS = &corev1.PodOS{Name: corev1.Linux} // required with a stop signal
	}
	if lifecycle != (corev1.Lifecycle{}) {
		container.Lifecycle = &lifecycle
	}
}

func (c *compose) nameResolution(s types.ServiceConfig, spec *corev1.PodSpec) {
	byIP := map[string][]string{}
	for _, host := range slices.Sorted(maps.Keys(s.ExtraHosts)) {
		for _, ip := range s.ExtraHosts[host] {
			if ip == "host-gateway" {
				c.app.warnf("%s: services.%s.extra_hosts: %q: use the address of this machine instead of host-gateway", c.file, s.Name, host)
				continue
			}
			byIP[ip] = append(byIP[ip], host)
		}
	}
	for _, ip := range slices.Sorted(maps.Keys(byIP)) {
		spec.HostAliases = append(spec.HostAliases, corev1.HostAlias{IP: ip, Hostnames: byIP[ip]})
	}
	if len(s.DNS)+len(s.DNSSearch)+len(s.DNSOpts) == 0 {
		return
	}
	spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: s.DNS, Searches: s.DNSSearch}
	for _, option := range s.DNSOpts {
		name, value, ok := strings.Cut(option, ":")
		o := corev1.PodDNSConfigOption{Name: name}
		if ok {
			o.Value = &value
		}
		spec.DNSConfig.Options = append(spec.DNSConfig.Options, o)
	}
}

func (c *compose) security(s types.ServiceConfig, spec *corev1.PodSpec, container *corev1.Container) error {
	pod, own := corev1.PodSecurityContext{}, corev1.SecurityContext{}
	if err := runAs(s.User, &pod); err != nil {
		return fmt.Errorf("%s: services.%s.user: %w", c.file, s.Name, err)
	}
	for _, group := range s.GroupAdd {
		gid, err := strconv.ParseInt(group, 10, 64)
		if err != nil {
			c.app.warnf("%s: services.%s.group_add: %q has no effect: only numbers are known outside the image", c.file, s.Name, group)
			continue
		}
		pod.SupplementalGroups = append(pod.SupplementalGroups, gid)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Sysctls)) {
		pod.Sysctls = append(pod.Sysctls, corev1.Sysctl{Name: name, Value: s.Sysctls[name]})
	}
	if len(s.CapAdd)+len(s.CapDrop) > 0 {
		own.Capabilities = &corev1.Capabilities{Add: capabilities(s.CapAdd), Drop: capabilities(s.CapDrop)}
	}
	if s.ReadOnly {
		own.ReadOnlyRootFilesystem = &s.ReadOnly
	}
	if s.Privileged {
		own.Privileged = &s.Privileged
	}
	for _, option := range s.SecurityOpt {
		switch strings.ReplaceAll(option, "=", ":") {
		case "no-new-privileges", "no-new-privileges:true":
			own.AllowPrivilegeEscalation = new(bool)
		case "no-new-privileges:false":
		case "seccomp:unconfined":
			own.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}
		case "apparmor:unconfined":
			own.AppArmorProfile = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
		default:
			c.app.warnf("%s: services.%s.security_opt: %q has no effect", c.file, s.Name, option)
		}
	}
	if !isZero(pod) {
		spec.SecurityContext = &pod
	}
	if !isZero(own) {
		container.SecurityContext = &own
	}
	return nil
}

// runAs accepts numbers only: what a name means is written inside the image,
// and Kubernetes decides before it looks there. The group also owns volumes, so
// that an unprivileged user can write to them.
func runAs(user string, pod *corev1.PodSecurityContext) error {
	if user == "" {
		return nil
	}
	name, group, hasGroup := strings.Cut(user, ":")
	if name == "root" {
		name = "0"
	}
	if group == "root" {
		group = "0"
	}
	uid, err := strconv.ParseInt(name, 10, 64)
	if err != nil {
		return fmt.Errorf("%q is a name: write the number (as in 1000:1000), or USER in the Dockerfile", user)
	}
	pod.RunAsUser = &uid
	gid := uid
	if hasGroup {
		if gid, err = strconv.ParseInt(group, 10, 64); err != nil {
			return fmt.Errorf("%q: the group is a name: write the number", user)
		}
		pod.RunAsGroup = &gid
	}
	if uid != 0 {
		policy := corev1.FSGroupChangeOnRootMismatch // do not walk a large volume at each start
		pod.FSGroup, pod.FSGroupChangePolicy = &gid, &policy
	}
	return nil
}

func capabilities(names []string) []corev1.Capability {
	var caps []corev1.Capability
	for _, name := range names {
		caps = append(caps, corev1.Capability(strings.TrimPrefix(strings.ToUpper(name), "CAP_")))
	}
	return caps
}

func (c *compose) pullPolicy(s types.ServiceConfig) corev1.PullPolicy {
	if s.Build != nil {
		return corev1.PullIfNotPresent
	}
	switch s.PullPolicy {
	case "":
		return ""
	case types.PullPolicyAlways:
		return corev1.PullAlways
	case types.PullPolicyNever:
		return corev1.PullNever
	case types.PullPolicyMissing, types.PullPolicyIfNotPresent:
		return corev1.PullIfNotPresent
	}
	c.app.warnf("%s: services.%s.pull_policy: %q is taken as always", c.file, s.Name, s.PullPolicy)
	return corev1.PullAlways
}
