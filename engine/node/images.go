package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/credentialprovider"
	"k8s.io/kubernetes/pkg/credentialprovider/secrets"
	"k8s.io/kubernetes/pkg/kubelet/events"

	"github.com/gantryhq/gantry/engine/image"
)

// ensureImage makes the image of a container present as its pull policy says.
// The reason is the one to report when it does not succeed.
func (n *Node) ensureImage(ctx context.Context, pod *v1.Pod, c *v1.Container) (img *image.Image, reason string, err error) {
	if _, err := reference.ParseNormalizedNamed(c.Image); err != nil {
		err = fmt.Errorf("failed to apply default image tag %q: couldn't parse image name %q: %w", c.Image, c.Image, err)
		n.event(pod, c.Name, v1.EventTypeWarning, events.FailedToInspectImage, "%v", err)
		return nil, "InvalidImageName", err
	}
	if c.ImagePullPolicy != v1.PullAlways {
		img, err := n.cfg.Images.Get(ctx, c.Image)
		switch {
		case err == nil:
			n.event(pod, c.Name, v1.EventTypeNormal, events.PulledImage, "Container image %q already present on machine", c.Image)
			return img, "", nil
		case !errors.Is(err, fs.ErrNotExist):
			n.event(pod, c.Name, v1.EventTypeWarning, events.FailedToInspectImage, "Failed to inspect image %q: %v", c.Image, err)
			return nil, "ImageInspectError", err
		case c.ImagePullPolicy == v1.PullNever:
			err = fmt.Errorf("container image %q is not present with pull policy of Never", c.Image)
			n.event(pod, c.Name, v1.EventTypeWarning, events.ErrImageNeverPullPolicy, "Container image %q is not present with pull policy of Never", c.Image)
			return nil, "ErrImageNeverPull", err
		}
	}
	img, err = n.pull(ctx, pod, c)
	if err != nil {
		return nil, "ErrImagePull", err
	}
	return img, "", nil
}

func (n *Node) pull(ctx context.Context, pod *v1.Pod, c *v1.Container) (*image.Image, error) {
	n.event(pod, c.Name, v1.EventTypeNormal, events.PullingImage, "Pulling image %q", c.Image)
	begun := time.Now()
	keychains, err := n.keychains(ctx, pod, c.Image)
	var img *image.Image
	if err == nil {
		img, err = n.pullAny(ctx, c.Image, keychains)
	}
	if err != nil {
		if ctx.Err() == nil {
			n.event(pod, c.Name, v1.EventTypeWarning, events.FailedToPullImage, "Failed to pull image %q: %v", c.Image, err)
		}
		return nil, err
	}
	took := time.Since(begun).Round(time.Millisecond)
	n.event(pod, c.Name, v1.EventTypeNormal, events.PulledImage,
		"Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.", c.Image, took, took, img.Size)
	n.imagesChanged()
	return img, nil
}

// pullAny tries the credentials one after the other. The store lets pods with
// the same image and credentials share one transfer.
func (n *Node) pullAny(ctx context.Context, ref string, keychains []image.Keychain) (*image.Image, error) {
	if len(keychains) == 0 {
		keychains = []image.Keychain{nil}
	}
	var errs []error
	for _, k := range keychains {
		img, err := n.cfg.Images.Pull(ctx, ref, image.PullOptions{Keychain: k})
		if err == nil {
			return img, nil
		}
		errs = append(errs, err)
		if !errors.Is(err, image.ErrUnauthorized) {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// keychains are the pod's pull secrets that are about the image's registry. Those
// of its service account are among them: admission has put them into the pod.
func (n *Node) keychains(ctx context.Context, pod *v1.Pod, ref string) ([]image.Keychain, error) {
	var found []v1.Secret
	for _, r := range pod.Spec.ImagePullSecrets {
		s, err := n.client.CoreV1().Secrets(pod.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			n.event(pod, "", v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", r.Name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("get image pull secret %q: %w", r.Name, err)
		}
		found = append(found, *s)
	}
	if len(found) == 0 {
		return nil, nil
	}
	ring, err := secrets.MakeDockerKeyring(found, &credentialprovider.BasicDockerKeyring{})
	if err != nil {
		return nil, fmt.Errorf("read image pull secrets: %w", err)
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, fmt.Errorf("parse image name %q: %w", ref, err)
	}
	auths, _ := ring.Lookup(named.Name())
	var out []image.Keychain
	for _, a := range auths {
		out = append(out, credentialFor(reference.Domain(named), a.Username, a.Password))
	}
	return out, nil
}

// credentialFor gives a credential to the registry it was found for and to no
// other: a mirror, or a host that the registry redirects to, may ask too.
func credentialFor(registry, user, password string) image.Keychain {
	return func(host string) (string, string, bool) {
		if host != registry {
			return "", "", false
		}
		return user, password, true
	}
}

// mountImageVolume makes an image volume present for [volume.Manager].
func (n *Node) mountImageVolume(ctx context.Context, pod *v1.Pod, v *v1.Volume) (string, error) {
	policy := v.Image.PullPolicy
	img, _, err := n.ensureImage(ctx, pod, &v1.Container{Image: v.Image.Reference, ImagePullPolicy: policy})
	if err != nil {
		return "", err
	}
	if err := n.admitImage(ctx, pod, "", v.Image.Reference, img); err != nil {
		return "", err
	}
	path, err := n.cfg.Images.MountReadOnly(ctx, imageVolumeID(pod.UID, v.Name), img.Name)
	if err == nil {
		err = n.unchanged(ctx, img)
	}
	return path, err
}

func (n *Node) unmountImageVolume(ctx context.Context, uid types.UID, name string) error {
	if err := n.cfg.Images.Unmount(ctx, imageVolumeID(uid, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// imageVolumeSuffix tells the roots of image volumes from those of containers.
const imageVolumeSuffix = "-volume"

func imageVolumeID(uid types.UID, name string) string {
	return fmt.Sprintf("%s-%s%s", podID(uid), shortHash(name), imageVolumeSuffix)
}

// imageVolumePod returns the pod whose volume a root is.
func imageVolumePod(id string) (types.UID, bool) {
	rest, ok := strings.CutSuffix(id, imageVolumeSuffix)
	uid, _, ok2 := cutLast(rest, "-")
	return types.UID(uid), ok && ok2
}

// imageRefused is the reason of a container that may not start from its image.
const imageRefused = "ImageRefused"

// admitImage asks whether a pod may use an image.
func (n *Node) admitImage(ctx context.Context, pod *v1.Pod, where, ref string, img *image.Image) error {
	if n.cfg.Admit == nil {
		return nil
	}
	err := n.cfg.Admit(ctx, pod, ref, img.Digest)
	if err == nil {
		return nil
	}
	if ctx.Err() == nil {
		n.event(pod, where, v1.EventTypeWarning, imageRefused, "%v", err)
	}
	return &createError{imageRefused, err}
}

// admit asks whether the container may start from its image as it is on the machine now: since it
// was pulled, its tag may have come to mean another one.
func (b *build) admit(ctx context.Context) error {
	if b.n.cfg.Admit == nil {
		return nil
	}
	if !pinned(b.image) {
		now, err := b.n.cfg.Images.Get(ctx, b.image.Name)
		if err != nil {
			return &createError{"CreateContainerError", err}
		}
		b.image = now
	}
	return b.n.admitImage(ctx, b.pod, b.c.Name, b.c.Image, b.image)
}

// unchanged is whether an image that was admitted is what its name stands for, once it is mounted.
func (n *Node) unchanged(ctx context.Context, img *image.Image) error {
	if n.cfg.Admit == nil || pinned(img) {
		return nil
	}
	now, err := n.cfg.Images.Get(ctx, img.Name)
	if err == nil && now.Digest != img.Digest {
		err = fmt.Errorf("image %q was replaced while it was checked", img.Name)
	}
	return err
}

// pinned is whether an image's name cannot come to mean another one.
func pinned(img *image.Image) bool { return strings.Contains(img.Name, "@") }

func imageID(img *image.Image) string {
	if img == nil {
		return ""
	}
	return img.RepoDigest()
}

func (n *Node) hasImage(name string) bool {
	_, err := n.cfg.Images.Get(n.ctx, name)
	return err == nil
}
