package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/services/gateway/translate"
)

// writeEvents warns of what is wrong with Ingresses, whose status has no place for it.
// Each warning is one Event, whose name comes from what it says, so that another process
// does not say it again.
func (c *Controller) writeEvents(ctx context.Context, r *translate.Result) (failed error) {
	said := map[string]bool{}
	defer func() { c.reported = said }()
	for name, problems := range r.IngressProblems {
		ingress := one[*networkingv1.Ingress](c.caches.ingresses, name.String())
		if ingress == nil {
			continue
		}
		for _, p := range problems {
			sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s", ingress.UID, ingress.Generation, p))
			id := ingress.Name + "." + hex.EncodeToString(sum[:8])
			key := ingress.Namespace + "/" + id
			if c.reported[key] {
				said[key] = true
				continue
			}
			now := metav1.Now()
			_, err := c.cfg.Kube.CoreV1().Events(ingress.Namespace).Create(ctx, &corev1.Event{
				ObjectMeta: metav1.ObjectMeta{Name: id, Namespace: ingress.Namespace},
				InvolvedObject: corev1.ObjectReference{
					APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "Ingress",
					Namespace: ingress.Namespace, Name: ingress.Name, UID: ingress.UID,
				},
				Type: corev1.EventTypeWarning, Reason: "NotServedAsWritten", Message: p,
				Source:         corev1.EventSource{Component: translate.ControllerName},
				FirstTimestamp: now, LastTimestamp: now, Count: 1,
			}, metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				failed = errors.Join(failed, wrap("Ingress", ingress, err))
				continue
			}
			said[key] = true
		}
	}
	return failed
}
