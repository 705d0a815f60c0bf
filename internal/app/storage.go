package app

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/internal/hint"
)

const (
	// defaultVolumeSize is asked for when driver_opts.size is not given. Gantry's
	// local volumes do not enforce it; a cluster's storage may.
	defaultVolumeSize = "1Gi"

	secretsDir = "/run/secrets"
)

// countWriters finds the services that write to each named volume.
func (c *compose) countWriters() {
	c.shared = map[string]int{}
	for _, s := range c.project.Services {
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeVolume && v.Source != "" && !v.ReadOnly {
				c.shared[v.Source]++
			}
		}
	}
}

func (c *compose) writesVolume(s types.ServiceConfig) bool {
	return slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool {
		return v.Type == types.VolumeTypeVolume && v.Source != "" && !v.ReadOnly
	})
}

// claims makes one PersistentVolumeClaim per named volume.
func (c *compose) claims() error {
	for _, name := range c.project.VolumeNames() {
		v := c.project.Volumes[name]
		field := "volumes." + name
		if v.External {
			c.app.warnf("%s: %s: external: the claim %q must exist in namespace %q", c.file, field, dnsLabel(v.Name), c.app.Namespace)
			continue
		}
		if v.Driver != "" && v.Driver != "local" {
			c.app.warnf("%s: %s.driver: %q has no effect: the default StorageClass is used", c.file, field, v.Driver)
		}
		size, err := resource.ParseQuantity(orDefault(v.DriverOpts["size"], defaultVolumeSize))
		if err != nil {
			return fmt.Errorf("%s: %s.driver_opts.size: %q: %w", c.file, field, v.DriverOpts["size"], err)
		}
		if err := c.add(0, field, &corev1.PersistentVolumeClaim{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
			ObjectMeta: metav1.ObjectMeta{Name: dnsLabel(name)},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: size}},
			},
		}); err != nil {
			return err
		}
	}
	return nil
}

// secrets makes a Secret for each, with the content under the key "content".
func (c *compose) secrets() error {
	for _, name := range c.project.SecretNames() {
		s := types.FileObjectConfig(c.project.Secrets[name])
		if s.External {
			continue
		}
		content, err := c.fileContent(s, "secrets."+name)
		if err != nil {
			return err
		}
		if err := c.add(0, "secrets."+name, &corev1.Secret{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			ObjectMeta: metav1.ObjectMeta{Name: dnsLabel(name)},
			Type:       corev1.SecretTypeOpaque,
			Data:       map[string][]byte{contentKey: content},
		}); err != nil {
			return err
		}
	}
	return nil
}

const contentKey = "content"

func (c *compose) configs() error {
	for _, name := range c.project.ConfigNames() {
		s := types.FileObjectConfig(c.project.Configs[name])
		if s.External {
			continue
		}
		content, err := c.fileContent(s, "configs."+name)
		if err != nil {
			return err
		}
		if err := c.add(0, "configs."+name, &corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Name: dnsLabel(name)},
			BinaryData: map[string][]byte{contentKey: content},
		}); err != nil {
			return err
		}
	}
	return nil
}

// fileContent reads what a secret or config holds, wherever it comes from.
func (c *compose) fileContent(f types.FileObjectConfig, field string) ([]byte, error) {
	const limit = 1 << 20 // of a Kubernetes object
	switch {
	case f.Content != "":
		return []byte(f.Content), nil
	case f.Environment != "":
		value, ok := c.project.Environment[f.Environment]
		if !ok {
			return nil, hint.Wrap(fmt.Errorf("%s: %s.environment: %s is not set", c.file, field, f.Environment),
				"export %s before the command, or put it into .env", f.Environment)
		}
		return []byte(value), nil
	case f.File == "":
		return nil, fmt.Errorf("%s: %s: neither file, environment nor content is given", c.file, field)
	}
	file, err := os.Open(f.File)
	if err != nil {
		return nil, fmt.Errorf("%s: %s.file: %w", c.file, field, err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %s.file: %w", c.file, field, err)
	}
	if len(content) > limit {
		return nil, hint.Wrap(fmt.Errorf("%s: %s.file: %s is larger than 1 MiB", c.file, field, displayPath(f.File)), "mount it as a volume")
	}
	return content, nil
}

// mounts translates all that appears in the container's file system, and returns
// a hash of the configs, so that a changed one restarts the service: files
// mounted one by one do not follow their source. Secrets under /run/secrets do.
func (c *compose) mounts(s types.ServiceConfig, spec *corev1.PodSpec, container *corev1.Container) (string, error) {
	m := &mounter{compose: c, service: s, spec: spec, container: container}
	for i, v := range s.Volumes {
		if err := m.volume(i, v); err != nil {
			return "", err
		}
	}
	for i, entry := range s.Tmpfs {
		target, options, _ := strings.Cut(entry, ":")
		m.tmpfs(fmt.Sprintf("tmpfs-%d", i), target, tmpfsSize(options))
	}
	if s.ShmSize > 0 {
		m.tmpfs("shm", "/dev/shm", resource.NewQuantity(int64(s.ShmSize), resource.BinarySI))
	}
	m.secrets()
	return m.configs()
}

// mounter adds volumes and their mounts to one pod.
type mounter struct {
	*compose
	service   types.ServiceConfig
	spec      *corev1.PodSpec
	container *corev1.Container
}

func (m *mounter) mount(name string, source corev1.VolumeSource, at corev1.VolumeMount) {
	if !slices.ContainsFunc(m.spec.Volumes, func(v corev1.Volume) bool { return v.Name == name }) {
		m.spec.Volumes = append(m.spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	}
	at.Name = name
	m.container.VolumeMounts = append(m.container.VolumeMounts, at)
}

func (m *mounter) volume(i int, v types.ServiceVolumeConfig) error {
	field := fmt.Sprintf("%s: services.%s.volumes[%d]", m.file, m.service.Name, i)
	at := corev1.VolumeMount{MountPath: v.Target, ReadOnly: v.ReadOnly}
	switch v.Type {
	case types.VolumeTypeVolume:
		if v.Volume != nil {
			at.SubPath = v.Volume.Subpath
		}
		if v.Source == "" { // anonymous: lives as long as the container
			m.mount(fmt.Sprintf("anonymous-%d", i), emptyDir("", nil), at)
			return nil
		}
		claim := dnsLabel(v.Source)
		if declared := m.project.Volumes[v.Source]; bool(declared.External) {
			claim = dnsLabel(declared.Name)
		}
		m.mount("volume-"+dnsLabel(v.Source), corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}, at)
		if m.shared[v.Source] > 1 && !v.ReadOnly {
			m.app.warnf("%s: volume %q has %d writing services: they must share one machine", field, v.Source, m.shared[v.Source])
		}
	case types.VolumeTypeBind:
		return m.bind(i, v, at, field)
	case types.VolumeTypeTmpfs:
		var size *resource.Quantity
		if v.Tmpfs != nil && v.Tmpfs.Size > 0 {
			size = resource.NewQuantity(int64(v.Tmpfs.Size), resource.BinarySI)
		}
		m.mount(fmt.Sprintf("tmpfs-volume-%d", i), emptyDir(corev1.StorageMediumMemory, size), at)
	default:
		return hint.Wrap(fmt.Errorf("%s.type: %q is not supported", field, v.Type), "use volume, bind or tmpfs")
	}
	return nil
}

func (m *mounter) bind(i int, v types.ServiceVolumeConfig, at corev1.VolumeMount, field string) error {
	kind := corev1.HostPathDirectoryOrCreate
	info, err := os.Stat(v.Source)
	switch {
	case err == nil && !info.IsDir():
		kind = corev1.HostPathFile
		if info.Mode().Type() == os.ModeSocket {
			kind = corev1.HostPathSocket
		}
	case err != nil && v.Bind != nil && !bool(v.Bind.CreateHostPath):
		return fmt.Errorf("%s.source: %w", field, err)
	}
	if v.Bind != nil {
		if p := v.Bind.Propagation; p == types.PropagationRShared || p == types.PropagationShared {
			mode := corev1.MountPropagationBidirectional
			at.MountPropagation = &mode
		} else if p == types.PropagationRSlave {
			mode := corev1.MountPropagationHostToContainer
			at.MountPropagation = &mode
		}
	}
	m.app.warnf("%s: %s is mounted from this machine: another machine would not have it", field, v.Source)
	m.mount(fmt.Sprintf("bind-%d", i), corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: v.Source, Type: &kind}}, at)
	return nil
}

func (m *mounter) tmpfs(name, target string, size *resource.Quantity) {
	m.mount(name, emptyDir(corev1.StorageMediumMemory, size), corev1.VolumeMount{MountPath: target})
}

func emptyDir(medium corev1.StorageMedium, size *resource.Quantity) corev1.VolumeSource {
	return corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium, SizeLimit: size}}
}

// tmpfsSize reads size= of the mount options in the short syntax.
func tmpfsSize(options string) *resource.Quantity {
	for option := range strings.SplitSeq(options, ",") {
		value, ok := strings.CutPrefix(option, "size=")
		if !ok {
			continue
		}
		var bytes types.UnitBytes
		if err := bytes.DecodeMapstructure(value); err == nil {
			return resource.NewQuantity(int64(bytes), resource.BinarySI)
		}
	}
	return nil
}

// secrets under /run/secrets share one projected volume; any other target gets a
// mount of its own.
func (m *mounter) secrets() {
	var projected []corev1.VolumeProjection
	for _, ref := range m.service.Secrets {
		object := m.objectName(types.FileObjectConfig(m.project.Secrets[ref.Source]), ref.Source)
		target := orDefault(ref.Target, ref.Source)
		item := corev1.KeyToPath{Key: contentKey, Mode: fileMode(ref.Mode)}
		if !path.IsAbs(target) {
			target = path.Join(secretsDir, target)
		}
		if relative, ok := strings.CutPrefix(target, secretsDir+"/"); ok {
			item.Path = relative
			projected = append(projected, corev1.VolumeProjection{Secret: &corev1.SecretProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: object}, Items: []corev1.KeyToPath{item},
			}})
			continue
		}
		item.Path = path.Base(target)
		m.mount("secret-"+dnsLabel(ref.Source), corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: object, Items: []corev1.KeyToPath{item}}},
			corev1.VolumeMount{MountPath: target, SubPath: item.Path, ReadOnly: true})
	}
	if len(projected) > 0 {
		m.mount("secrets", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: projected}},
			corev1.VolumeMount{MountPath: secretsDir, ReadOnly: true})
	}
}

func (m *mounter) configs() (string, error) {
	if len(m.service.Configs) == 0 {
		return "", nil
	}
	hash := sha256.New()
	for _, ref := range m.service.Configs {
		config := types.FileObjectConfig(m.project.Configs[ref.Source])
		if !config.External {
			content, err := m.fileContent(config, "configs."+ref.Source)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(hash, "%d:%s", len(content), content)
		}
		target := path.Join("/", orDefault(ref.Target, ref.Source))
		item := corev1.KeyToPath{Key: contentKey, Path: path.Base(target), Mode: fileMode(ref.Mode)}
		m.mount("config-"+dnsLabel(ref.Source), corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: m.objectName(config, ref.Source)}, Items: []corev1.KeyToPath{item},
		}}, corev1.VolumeMount{MountPath: target, SubPath: item.Path, ReadOnly: true})
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

// objectName is the Secret or ConfigMap behind a secret or config.
func (m *mounter) objectName(f types.FileObjectConfig, name string) string {
	if f.External {
		return dnsLabel(orDefault(f.Name, name))
	}
	return dnsLabel(name)
}

func fileMode(mode *types.FileMode) *int32 {
	if mode == nil {
		return nil
	}
	return new(int32(*mode))
}
