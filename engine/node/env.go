package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	podshelper "k8s.io/kubernetes/pkg/apis/core/pods"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/pkg/kubelet/envvars"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// masterServices are visible in every namespace.
const masterServiceNamespace = metav1.NamespaceDefault

// envSource resolves a container's environment.
type envSource struct {
	client      kubernetes.Interface
	services    corelisters.ServiceLister
	allocatable v1.ResourceList
	hostIP      string
	podIPs      []string

	configMaps map[string]*v1.ConfigMap // fetched once per start
	secrets    map[string]*v1.Secret
}

// env is a resolved environment in order of definition.
type env struct {
	names  []string
	values map[string]string
}

func (e *env) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

// list returns base, overridden and followed by the environment, as KEY=value.
func (e *env) list(base []string) []string {
	out := make([]string, 0, len(base)+len(e.names))
	for _, kv := range base {
		name, _, _ := strings.Cut(kv, "=")
		if _, ok := e.values[name]; !ok {
			out = append(out, kv)
		}
	}
	for _, name := range e.names {
		out = append(out, name+"="+e.values[name])
	}
	return out
}

// resolve computes the environment of a container. Later definitions win over
// earlier ones and may refer to them: service variables, envFrom, env.
func (s *envSource) resolve(ctx context.Context, pod *v1.Pod, c *v1.Container) (*env, error) {
	out := &env{values: map[string]string{}}
	services, err := s.serviceEnv(pod)
	if err != nil {
		return nil, err
	}
	for i := range c.EnvFrom {
		if err := s.from(ctx, pod, &c.EnvFrom[i], out); err != nil {
			return nil, err
		}
	}
	mapping := expansion.MappingFuncFor(out.values, services)
	for i := range c.Env {
		v := &c.Env[i]
		value, ok := expansion.Expand(v.Value, mapping), true
		if v.ValueFrom != nil && v.Value == "" {
			if value, ok, err = s.valueFrom(ctx, pod, c, v); err != nil {
				return nil, err
			}
		}
		if ok {
			out.set(v.Name, value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if _, ok := out.values[name]; !ok {
			out.set(name, services[name])
		}
	}
	return out, nil
}

// serviceEnv are the docker-link style variables of the namespace's services.
func (s *envSource) serviceEnv(pod *v1.Pod) (map[string]string, error) {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	all, err := s.services.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	byName := map[string]*v1.Service{}
	for _, svc := range all {
		if !helper.IsServiceIPSet(svc) {
			continue
		}
		switch {
		case svc.Namespace == masterServiceNamespace && svc.Name == "kubernetes":
			if _, taken := byName[svc.Name]; !taken {
				byName[svc.Name] = svc
			}
		case svc.Namespace == pod.Namespace && links:
			byName[svc.Name] = svc
		}
	}
	list := make([]*v1.Service, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		list = append(list, byName[name])
	}
	out := map[string]string{}
	for _, v := range envvars.FromServices(list) {
		out[v.Name] = v.Value
	}
	return out, nil
}

func (s *envSource) from(ctx context.Context, pod *v1.Pod, f *v1.EnvFromSource, out *env) error {
	switch {
	case f.ConfigMapRef != nil:
		cm, err := s.configMap(ctx, pod.Namespace, f.ConfigMapRef.Name, f.ConfigMapRef.Optional)
		if err != nil || cm == nil {
			return err
		}
		for _, k := range slices.Sorted(maps.Keys(cm.Data)) {
			out.set(f.Prefix+k, cm.Data[k])
		}
	case f.SecretRef != nil:
		sec, err := s.secret(ctx, pod.Namespace, f.SecretRef.Name, f.SecretRef.Optional)
		if err != nil || sec == nil {
			return err
		}
		for _, k := range slices.Sorted(maps.Keys(sec.Data)) {
			out.set(f.Prefix+k, string(sec.Data[k]))
		}
	}
	return nil
}

// valueFrom resolves one reference; ok is false for an absent optional one.
func (s *envSource) valueFrom(ctx context.Context, pod *v1.Pod, c *v1.Container, v *v1.EnvVar) (value string, ok bool, err error) {
	switch f := v.ValueFrom; {
	case f.FieldRef != nil:
		value, err = s.field(pod, f.FieldRef)
		return value, true, err
	case f.ResourceFieldRef != nil:
		name := f.ResourceFieldRef.ContainerName
		if name == "" {
			name = c.Name
		}
		value, err = resource.ExtractResourceValueByContainerNameAndNodeAllocatable(f.ResourceFieldRef, pod, name, s.allocatable)
		return value, true, err
	case f.ConfigMapKeyRef != nil:
		ref := f.ConfigMapKeyRef
		cm, err := s.configMap(ctx, pod.Namespace, ref.Name, ref.Optional)
		if err != nil || cm == nil {
			return "", false, err
		}
		if value, ok = cm.Data[ref.Key]; !ok && !isTrue(ref.Optional) {
			err = fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return value, ok, err
	case f.SecretKeyRef != nil:
		ref := f.SecretKeyRef
		sec, err := s.secret(ctx, pod.Namespace, ref.Name, ref.Optional)
		if err != nil || sec == nil {
			return "", false, err
		}
		data, ok := sec.Data[ref.Key]
		if !ok && !isTrue(ref.Optional) {
			err = fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(data), ok, err
	}
	return "", false, fmt.Errorf("environment variable %s has a source that is not supported here: use fieldRef, resourceFieldRef, configMapKeyRef or secretKeyRef", v.Name)
}

func (s *envSource) field(pod *v1.Pod, ref *v1.ObjectFieldSelector) (string, error) {
	path, _, err := podshelper.ConvertDownwardAPIFieldLabel(ref.APIVersion, ref.FieldPath, "")
	if err != nil {
		return "", err
	}
	switch path {
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP", "status.hostIPs":
		return s.hostIP, nil
	case "status.podIP":
		if len(s.podIPs) == 0 {
			return "", nil
		}
		return s.podIPs[0], nil
	case "status.podIPs":
		return strings.Join(s.podIPs, ","), nil
	}
	return fieldpath.ExtractFieldPathAsString(pod, path)
}

func (s *envSource) configMap(ctx context.Context, ns, name string, optional *bool) (*v1.ConfigMap, error) {
	if cm, ok := s.configMaps[name]; ok {
		return cm, nil
	}
	cm, err := s.client.CoreV1().ConfigMaps(ns).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		if apierrors.IsNotFound(err) && isTrue(optional) {
			return nil, nil
		}
		return nil, err
	}
	if s.configMaps == nil {
		s.configMaps = map[string]*v1.ConfigMap{}
	}
	s.configMaps[name] = cm
	return cm, nil
}

func (s *envSource) secret(ctx context.Context, ns, name string, optional *bool) (*v1.Secret, error) {
	if sec, ok := s.secrets[name]; ok {
		return sec, nil
	}
	sec, err := s.client.CoreV1().Secrets(ns).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		if apierrors.IsNotFound(err) && isTrue(optional) {
			return nil, nil
		}
		return nil, err
	}
	if s.secrets == nil {
		s.secrets = map[string]*v1.Secret{}
	}
	s.secrets[name] = sec
	return sec, nil
}

func isTrue(b *bool) bool { return b != nil && *b }
