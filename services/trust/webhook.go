package trust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxReview bounds an AdmissionReview: two objects of the size that an API server takes, and a little.
const maxReview = 7 << 20

// ServeHTTP answers AdmissionReviews: /admit/POLICY for pods, /warn/POLICY for workloads.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind, name, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case r.URL.Path == "/healthz":
		fmt.Fprintln(w, "ok")
		return
	case !ok || kind != "admit" && kind != "warn":
		http.NotFound(w, r)
		return
	case r.Method != http.MethodPost:
		http.Error(w, "only POST is known here", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReview))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &review); err != nil || review.Request == nil {
		http.Error(w, "this is no AdmissionReview", http.StatusBadRequest)
		return
	}
	select {
	case <-s.known:
	case <-r.Context().Done():
		http.Error(w, "the policies are not known yet", http.StatusServiceUnavailable)
		return
	}
	answer := &admissionv1.AdmissionResponse{Allowed: true}
	if p := s.policy(name); p != nil { // else it was deleted, and the webhook goes too
		if kind == "admit" {
			err = s.admit(r.Context(), p, review.Request, answer)
		} else {
			err = s.warn(r.Context(), p, review.Request, answer)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer.UID = review.Request.UID
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: answer})
}

// namedImage is an image in a pod, and where its name stands in the object.
type namedImage struct {
	path, image string
}

// podImages are the images of all containers of a pod, and of its image volumes.
func podImages(spec *corev1.PodSpec, at string) []namedImage {
	var out []namedImage
	for i := range spec.InitContainers {
		out = append(out, namedImage{fmt.Sprintf("%s/initContainers/%d/image", at, i), spec.InitContainers[i].Image})
	}
	for i := range spec.Containers {
		out = append(out, namedImage{fmt.Sprintf("%s/containers/%d/image", at, i), spec.Containers[i].Image})
	}
	for i := range spec.EphemeralContainers {
		out = append(out, namedImage{fmt.Sprintf("%s/ephemeralContainers/%d/image", at, i), spec.EphemeralContainers[i].Image})
	}
	for i := range spec.Volumes {
		if v := spec.Volumes[i].Image; v != nil {
			out = append(out, namedImage{fmt.Sprintf("%s/volumes/%d/image/reference", at, i), v.Reference})
		}
	}
	return out
}

// changedImages are those that the old object does not have at the same place.
func changedImages(now, old []namedImage) []namedImage {
	before := map[namedImage]bool{}
	for _, i := range old {
		before[i] = true
	}
	var out []namedImage
	for _, i := range now {
		if !before[i] && i.image != "" {
			out = append(out, i)
		}
	}
	return out
}

// admit decides about a pod: it refuses it, or pins its images.
func (s *Service) admit(ctx context.Context, p *policy, r *admissionv1.AdmissionRequest, answer *admissionv1.AdmissionResponse) error {
	pod, old := &corev1.Pod{}, &corev1.Pod{}
	if err := errors.Join(decode(r.Object.Raw, pod), decode(r.OldObject.Raw, old)); err != nil {
		return err
	}
	var patch []map[string]string
	for _, i := range changedImages(podImages(&pod.Spec, "/spec"), podImages(&old.Spec, "/spec")) {
		if !p.covers(i.image) {
			continue
		}
		digest, err := s.decider.resolve(ctx, i.image, p)
		if err == nil {
			err = s.decider.decide(ctx, p, digest, i.image)
		}
		s.metrics.count(p, "admission", r.Namespace, i.image, err)
		if err != nil {
			dry := r.DryRun != nil && *r.DryRun
			if p.enforced() {
				s.tell(r, pod, dry, reasonRefused, err)
				answer.Allowed = false
				answer.Result = &metav1.Status{Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: err.Error()}
				return nil
			}
			s.tell(r, pod, dry, reasonWarned, err)
			answer.Warnings = append(answer.Warnings, err.Error())
			continue
		}
		if to := pinned(i.image, digest); to != i.image {
			patch = append(patch, map[string]string{"op": "replace", "path": i.path, "value": to})
		}
	}
	if len(patch) == 0 {
		return nil
	}
	text, err := json.Marshal(patch)
	kind := admissionv1.PatchTypeJSONPatch
	answer.Patch, answer.PatchType = text, &kind
	return err
}

// tell raises an event at whoever makes the pod, because the pod itself does not come to be.
func (s *Service) tell(r *admissionv1.AdmissionRequest, pod *corev1.Pod, dry bool, reason string, err error) {
	if dry {
		return
	}
	about := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: r.Namespace, Name: pod.Name, UID: pod.UID}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		about.APIVersion, about.Kind, about.Name, about.UID = owner.APIVersion, owner.Kind, owner.Name, owner.UID
	} else if about.Name == "" {
		about.Name = strings.TrimSuffix(pod.GenerateName, "-")
	}
	s.events.Eventf(about, corev1.EventTypeWarning, reason, "%s", err)
	s.cfg.Log.Debug("an image breaks a trust policy", "namespace", r.Namespace, "user", r.UserInfo.Username, "err", err)
}

// warn says what the pods of a workload will meet.
func (s *Service) warn(ctx context.Context, p *policy, r *admissionv1.AdmissionRequest, answer *admissionv1.AdmissionResponse) error {
	now, err := template(r.Kind.Kind, r.Object.Raw)
	if err != nil {
		return err
	}
	old, err := template(r.Kind.Kind, r.OldObject.Raw)
	if err != nil {
		return err
	}
	for _, i := range changedImages(podImages(now, ""), podImages(old, "")) {
		if !p.covers(i.image) {
			continue
		}
		digest, err := s.decider.resolve(ctx, i.image, p)
		if err == nil {
			err = s.decider.decide(ctx, p, digest, i.image)
		}
		if err != nil {
			answer.Warnings = append(answer.Warnings, err.Error())
		}
	}
	return nil
}

// template is the pod template of a workload.
func template(kind string, raw []byte) (*corev1.PodSpec, error) {
	switch kind {
	case "Deployment":
		o := &appsv1.Deployment{}
		return &o.Spec.Template.Spec, decode(raw, o)
	case "StatefulSet":
		o := &appsv1.StatefulSet{}
		return &o.Spec.Template.Spec, decode(raw, o)
	case "DaemonSet":
		o := &appsv1.DaemonSet{}
		return &o.Spec.Template.Spec, decode(raw, o)
	case "Job":
		o := &batchv1.Job{}
		return &o.Spec.Template.Spec, decode(raw, o)
	case "CronJob":
		o := &batchv1.CronJob{}
		return &o.Spec.JobTemplate.Spec.Template.Spec, decode(raw, o)
	}
	return &corev1.PodSpec{}, nil
}

func decode(raw []byte, into any) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("read the object of the review: %w", err)
	}
	return nil
}
