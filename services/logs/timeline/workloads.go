package timeline

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// workload is what is remembered of a Deployment, StatefulSet or DaemonSet.
type workload struct {
	metav1.ObjectMeta
	kind       string
	replicas   int32  // -1 of a DaemonSet
	template   string // its hash
	images     map[string]string
	restarted  string // when somebody asked for a restart
	changed    change // of the template
	scaled     change // of the replicas
	cause      string
	generation int64
	found      bool // rather than seen to change
}

// change is who set a field last, and when.
type change struct {
	by      string
	at      time.Time
	undated bool // who is known, but not when
}

const (
	restartedAnnotation = "kubectl.kubernetes.io/restartedAt"
	causeAnnotation     = "kubernetes.io/change-cause"
)

// summarize keeps of objects what the recorder looks at.
func summarize(o any) (any, error) {
	switch o := o.(type) {
	case *appsv1.Deployment:
		return workloadOf("deployment", &o.ObjectMeta, o.Spec.Replicas, &o.Spec.Template), nil
	case *appsv1.StatefulSet:
		return workloadOf("statefulset", &o.ObjectMeta, o.Spec.Replicas, &o.Spec.Template), nil
	case *appsv1.DaemonSet:
		return workloadOf("daemonset", &o.ObjectMeta, nil, &o.Spec.Template), nil
	case *corev1.ConfigMap:
		return configOf(o), nil
	}
	return o, nil
}

// named keeps of an object's description only what tells which it is.
func named(m *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, CreationTimestamp: m.CreationTimestamp}
}

func workloadOf(kind string, m *metav1.ObjectMeta, replicas *int32, template *corev1.PodTemplateSpec) *workload {
	w := &workload{ObjectMeta: named(m), kind: kind, replicas: -1, images: map[string]string{}, cause: m.Annotations[causeAnnotation], generation: m.Generation}
	if kind != "daemonset" {
		w.replicas = 1
	}
	if replicas != nil {
		w.replicas = *replicas
	}
	for _, list := range [][]corev1.Container{template.Spec.InitContainers, template.Spec.Containers} {
		for _, c := range list {
			w.images[c.Name] = c.Image
		}
	}
	w.restarted = template.Annotations[restartedAnnotation]
	text, err := json.Marshal(template)
	if err != nil {
		text = fmt.Appendf(nil, "%v", w.images)
	}
	w.template = hashOf(text)
	w.changed = lastChange(m, `"f:template"`)
	w.scaled = lastChange(m, `"f:replicas"`)
	return w
}

func hashOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:6])
}

// lastChange finds who has set a field of an object last.
func lastChange(m *metav1.ObjectMeta, field string) (c change) {
	for _, f := range m.ManagedFields {
		if f.FieldsV1 == nil || f.Subresource == "status" || !strings.Contains(string(f.FieldsV1.Raw), field) {
			continue
		}
		if f.Time == nil && c.at.IsZero() {
			c = change{by: f.Manager, undated: true}
		} else if f.Time != nil && f.Time.Time.After(c.at) {
			c = change{by: f.Manager, at: f.Time.Time}
		}
	}
	if c.at.IsZero() {
		c.at = m.CreationTimestamp.Time
	}
	return c
}

// deployed is the event that a template has been rolled out, with what was before, if known. earlier are
// templates from before that.
func (w *workload) deployed(before map[string]string, earlier bool) *Event {
	e := &Event{
		Time: w.changed.at, Kind: "deploy", Severity: "info", Namespace: w.Namespace, Workload: w.Name, Object: w.kind + "/" + w.Name, By: w.changed.by,
		Details: map[string]string{"template": w.template}, Key: w.template + "@" + w.changed.at.UTC().Format(time.RFC3339),
	}
	var changes, images []string
	for _, name := range slices.Sorted(maps.Keys(w.images)) {
		image := w.images[name]
		images = append(images, name+"="+image)
		if old := before[name]; before != nil && old != image {
			changes = append(changes, fmt.Sprintf("%s: %s → %s", name, cmp.Or(old, "(new)"), image))
			e.Details["image"], e.Details["was"] = image, old
		}
	}
	e.Details["images"] = strings.Join(images, ",")
	switch {
	case before == nil:
		e.Message = "deployed " + strings.Join(images, ", ")
		e.Details["image"] = firstImage(w.images)
	case len(changes) > 0:
		e.Message = "deployed " + strings.Join(changes, ", ")
	case w.restartAsked():
		e.Message = "restarted by a rollout, with the same images"
	default:
		e.Message = "changed the pods' template, with the same images"
	}
	if earlier {
		e.Kind, e.Severity = "rollback", "warning"
		e.Message = strings.Replace(e.Message, "deployed ", "rolled back ", 1)
		if len(changes) == 0 {
			e.Message = "rolled back to an earlier template, with the same images"
		}
	}
	if w.cause != "" {
		e.Details["cause"] = w.cause
		e.Message += " (" + w.cause + ")"
	}
	return e
}

// restartAsked tells whether the last change of the template was the wish for a restart.
func (w *workload) restartAsked() bool {
	at, err := time.Parse(time.RFC3339, w.restarted)
	return err == nil && at.Sub(w.changed.at).Abs() < 3*time.Second
}

func firstImage(images map[string]string) string {
	for _, name := range slices.Sorted(maps.Keys(images)) {
		return images[name]
	}
	return ""
}

// recent is when and by whom something was done that is seen to have changed now. Of what is taken away, or set
// again by the same, the API notes neither.
func recent(c change, now time.Time) (time.Time, string) {
	switch {
	case c.undated:
		return now, c.by
	case now.Sub(c.at) > 5*time.Second:
		return now, ""
	}
	return c.at, c.by
}

// scaledFrom is the event that the number of replicas has changed.
func (w *workload) scaledFrom(before int32, now time.Time) *Event {
	w.scaled.at, w.scaled.by = recent(w.scaled, now)
	at := w.scaled.at
	from, to := strconv.Itoa(int(before)), strconv.Itoa(int(w.replicas))
	return &Event{
		Time: at, Kind: "scale", Severity: "info", Namespace: w.Namespace, Workload: w.Name, Object: w.kind + "/" + w.Name, By: w.scaled.by,
		Message: "scaled from " + from + " to " + to + " replicas", Details: map[string]string{"from": from, "to": to},
		Key: from + ">" + to + "@" + strconv.FormatInt(w.generation, 10),
	}
}

// config is what is remembered of a ConfigMap: no content.
type config struct {
	metav1.ObjectMeta
	keys    map[string]string // hashes of values
	changed change
}

func configOf(m *corev1.ConfigMap) *config {
	c := &config{ObjectMeta: named(&m.ObjectMeta), keys: map[string]string{}, changed: lastChange(&m.ObjectMeta, `"f:data"`)}
	for k, v := range m.Data {
		c.keys[k] = hashOf([]byte(v))
	}
	for k, v := range m.BinaryData {
		c.keys[k] = hashOf(v)
	}
	return c
}

// changedFrom is the event that content has changed, or nil.
func (c *config) changedFrom(old *config) *Event {
	var keys []string
	for k := range c.keys {
		if old.keys[k] != c.keys[k] {
			keys = append(keys, k)
		}
	}
	for k := range old.keys {
		if _, ok := c.keys[k]; !ok {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	slices.Sort(keys)
	return &Event{
		Time: c.changed.at, Kind: "config", Severity: "info", Namespace: c.Namespace, Object: "configmap/" + c.Name, By: c.changed.by,
		Message: "changed " + strings.Join(keys, ", "), Details: map[string]string{"keys": strings.Join(keys, ",")}, Key: c.ResourceVersion,
	}
}
