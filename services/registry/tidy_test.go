package registry

import (
	"context"
	"errors"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestTidyingSparesWhatWorkloadsNameByDigest(t *testing.T) {
	reg := serve(t, Config{DataDir: t.TempDir()})
	digestOf := func(img v1.Image) string {
		d, err := img.Digest()
		must(t, err)
		return d.String()
	}
	var versions []string // each push moves the tag off the one before
	for range 4 {
		img := randomImage(t, 1)
		reg.push(t, "shop/app:latest", img)
		versions = append(versions, digestOf(img))
	}
	inRevision, inPod, forgotten := versions[0], versions[1], versions[2]
	spec := corev1.PodSpec{Containers: []corev1.Container{{Image: "127.0.0.1:5000/shop/app@" + inRevision}}}
	cluster := fake.NewClientset(
		&appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "former"},
			Spec:       appsv1.ReplicaSetSpec{Template: corev1.PodTemplateSpec{Spec: spec}},
		},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "by-tag"},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Image: "localhost:5000/shop/app:latest"}}},
			Status:     corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{ImageID: "localhost:5000/shop/app@" + inPod}}},
		},
	)
	got, err := reg.tidy(context.Background(), cluster, 0)
	if err != nil || got.Manifests != 1 {
		t.Fatalf("collected %+v, %v", got, err)
	}
	for digest, want := range map[string]bool{inRevision: true, inPod: true, forgotten: false, versions[3]: true} {
		if _, err := remote.Image(reg.ref(t, "shop/app@"+digest)); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", digest, err, want)
		}
	}
}

func TestNothingGoesWhileTheClusterCannotBeAsked(t *testing.T) {
	reg := serve(t, Config{DataDir: t.TempDir()})
	old := randomImage(t, 1)
	reg.push(t, "app:1", old)
	reg.push(t, "app:1", randomImage(t, 1))
	cluster := fake.NewClientset()
	cluster.PrependReactor("list", "cronjobs", func(clienttesting.Action) (bool, apiruntime.Object, error) {
		return true, nil, errors.New("the API is away")
	})
	if _, err := reg.tidy(context.Background(), cluster, 0); err == nil {
		t.Error("collected without knowing what is deployed")
	}
	d, err := old.Digest()
	must(t, err)
	if _, err := remote.Image(reg.ref(t, "app@"+d.String())); err != nil {
		t.Error(err)
	}
}
