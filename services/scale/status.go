package scale

import (
	"context"
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/scale/decision"
)

// statusWriter keeps a policy's status true, without a write for each change of a number in
// its words.
type statusWriter struct {
	c        *controller
	name     types.NamespacedName
	services []string  // of the target
	scaled   time.Time // when the number of replicas was last changed; zero for not by this process
	wrote    time.Time
	written  *v1alpha1.ScalePolicyStatus // what the API has, as far as known
	refused  string                      // the last event about a refusal, so that it is not repeated
}

// accept says that the policy scales its target.
func (w *statusWriter) accept(ctx context.Context, p *v1alpha1.ScalePolicy, services []string) {
	if w.refused != "" {
		w.refused = ""
	}
	w.services = services
	status := w.last(p)
	status.Services = services
	set(status, p, v1alpha1.ScaleAccepted, true, v1alpha1.ScaleReasonAccepted, "")
	w.write(ctx, p, status)
}

// refuse says why the policy does not scale its target.
func (w *statusWriter) refuse(ctx context.Context, p *v1alpha1.ScalePolicy, reason, message string) {
	w.services = nil
	status := w.last(p)
	status.Services, status.Reason = nil, message
	for _, c := range []string{v1alpha1.ScaleSignals, v1alpha1.ScaleBursting, v1alpha1.ScaleLimited} {
		meta.RemoveStatusCondition(&status.Conditions, c)
	}
	set(status, p, v1alpha1.ScaleAccepted, false, reason, message)
	if w.refused != message {
		w.refused = message
		w.c.clients.events.Event(p, corev1.EventTypeWarning, reason, message)
	}
	w.write(ctx, p, status)
}

// trouble says what went wrong, and changes nothing else.
func (w *statusWriter) trouble(ctx context.Context, p *v1alpha1.ScalePolicy, err error) {
	status := w.last(p)
	set(status, p, v1alpha1.ScaleSignals, false, "Failed", err.Error())
	w.write(ctx, p, status)
}

// report says what was decided.
func (w *statusWriter) report(ctx context.Context, p *v1alpha1.ScalePolicy, t *target, d *decision.Decision) {
	status := w.last(p)
	before := status.DeepCopy()
	status.CurrentReplicas, status.DesiredReplicas = t.present, d.Replicas
	if !w.scaled.IsZero() {
		status.LastScaleTime = &metav1.Time{Time: w.scaled.Truncate(time.Second)}
	}
	if len(d.Missing) > 0 {
		set(status, p, v1alpha1.ScaleSignals, false, "Missing", joined(d.Missing))
	} else {
		set(status, p, v1alpha1.ScaleSignals, true, "Known", "")
	}
	set(status, p, v1alpha1.ScaleBursting, d.Bursting, map[bool]string{true: "Burst", false: "NoBurst"}[d.Bursting], "")
	if d.Limited != "" {
		// The numbers in the words are brought up to date now and then.
		message := d.Limited
		if c := meta.FindStatusCondition(status.Conditions, v1alpha1.ScaleLimited); c != nil && c.Status == metav1.ConditionTrue && time.Since(w.wrote) < statusPause {
			message = c.Message
		}
		set(status, p, v1alpha1.ScaleLimited, true, "TooManyReplicas", message)
	} else {
		set(status, p, v1alpha1.ScaleLimited, false, "WithinLimits", "")
	}
	if !equality.Semantic.DeepEqual(before, status) || time.Since(w.wrote) >= statusPause {
		status.Reason = d.Reason
	}
	w.c.metrics.desired.WithLabelValues(w.name.Namespace, w.name.Name).Set(float64(d.Replicas))
	w.c.metrics.current.WithLabelValues(w.name.Namespace, w.name.Name).Set(float64(t.present))
	w.write(ctx, p, status)
}

// last is a copy of the status that the API has, to be changed.
func (w *statusWriter) last(p *v1alpha1.ScalePolicy) *v1alpha1.ScalePolicyStatus {
	if w.written != nil {
		return w.written.DeepCopy()
	}
	return p.Status.DeepCopy()
}

func set(s *v1alpha1.ScalePolicyStatus, p *v1alpha1.ScalePolicy, kind string, yes bool, reason, message string) {
	value := metav1.ConditionFalse
	if yes {
		value = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{
		Type: kind, Status: value, Reason: reason, Message: message, ObservedGeneration: p.Generation,
	})
}

// write writes the status if it differs from what the API has. A write that does not succeed is
// made up for by the next one.
func (w *statusWriter) write(ctx context.Context, p *v1alpha1.ScalePolicy, status *v1alpha1.ScalePolicyStatus) {
	status.ObservedGeneration = p.Generation
	if w.written != nil && equality.Semantic.DeepEqual(*w.written, *status) {
		return
	}
	if w.written == nil && equality.Semantic.DeepEqual(p.Status, *status) {
		w.written = status
		return
	}
	patch, err := statusPatch(status)
	if err == nil {
		_, err = w.c.clients.policies.ScalePolicies(w.name.Namespace).
			Patch(ctx, w.name.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err != nil {
		if ctx.Err() == nil && !apierrors.IsNotFound(err) {
			w.c.cfg.Log.Warn("cannot write the status of a policy", "policy", w.name, "err", err)
		}
		return
	}
	w.written, w.wrote = status, time.Now()
}

// statusPatch replaces the whole status.
func statusPatch(status *v1alpha1.ScalePolicyStatus) ([]byte, error) {
	text, err := json.Marshal(status)
	if err != nil {
		return nil, err
	}
	fields := map[string]any{"services": nil, "reason": nil, "lastScaleTime": nil, "conditions": nil} // null is none
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"status": fields})
}
