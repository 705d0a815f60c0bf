package node

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Extras give rights that nothing else checks, so they count in one namespace only.
func TestExtrasAreForOneNamespace(t *testing.T) {
	pod := func(namespace, text string) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: namespace, Annotations: map[string]string{ExtrasAnnotation: text}}}
	}
	n := &Node{cfg: Config{ExtrasNamespace: "docker"}}
	if e, err := n.extras(pod("docker", `{"pidsLimit":7,"devices":[{"host":"/dev/null"}]}`)); err != nil || e.PidsLimit != 7 || len(e.Devices) != 1 {
		t.Errorf("got %+v, %v", e, err)
	}
	for _, bad := range []*v1.Pod{pod("shop", `{"devices":[{"host":"/dev/sda"}]}`), pod("", "{}"), pod("docker", "{")} {
		if _, err := n.extras(bad); err == nil || !strings.Contains(err.Error(), ExtrasAnnotation) {
			t.Errorf("%s: %q: %v", bad.Namespace, bad.Annotations[ExtrasAnnotation], err)
		}
	}
	nobody := &Node{}
	if _, err := nobody.extras(pod("", "{}")); err == nil {
		t.Error("a node without such a namespace obeyed a pod")
	}
	if e, err := nobody.extras(pod("shop", "")); err != nil || e.NoNetwork {
		t.Errorf("a pod without extras: %+v, %v", e, err)
	}
}
