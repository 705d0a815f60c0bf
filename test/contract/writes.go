package contract

import (
	"encoding/json"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
)

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "main", Image: "example.com/app:1"}}},
			},
		},
	}
}

func defaulting(s *teller) {
	deployments := s.client.AppsV1().Deployments(s.namespace)
	d, err := deployments.Create(s.ctx, deployment("web"), metav1.CreateOptions{})
	s.must(err)
	if d.Spec.Replicas == nil || *d.Spec.Replicas != 1 || d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType ||
		d.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyAlways || d.Spec.Template.Spec.Containers[0].ImagePullPolicy != corev1.PullIfNotPresent {
		s.Errorf("defaults are missing: %+v", d.Spec)
	}
	if d.UID == "" || d.Generation != 1 || d.ResourceVersion == "" || d.CreationTimestamp.IsZero() {
		s.Errorf("system fields are missing: %+v", d.ObjectMeta)
	}
	again, err := deployments.Get(s.ctx, "web", metav1.GetOptions{})
	s.must(err)
	if !again.CreationTimestamp.Equal(&d.CreationTimestamp) || again.UID != d.UID {
		s.Errorf("read %v, created %v", again.ObjectMeta, d.ObjectMeta)
	}
	_, err = deployments.Create(s.ctx, deployment("web"), metav1.CreateOptions{})
	s.refused(err, apierrors.IsAlreadyExists, "a second object of the same name")

	bad := deployment("bad")
	bad.Spec.Template.Labels = map[string]string{"app": "other"}
	bad.Spec.Template.Spec.Containers[0].Image = ""
	_, err = deployments.Create(s.ctx, bad, metav1.CreateOptions{})
	s.refused(err, apierrors.IsInvalid, "a deployment that does not select its pods")
	for _, field := range []string{"spec.template.metadata.labels", "spec.template.spec.containers[0].image"} {
		if !strings.Contains(err.Error(), field) {
			s.Errorf("the refusal does not name %s: %v", field, err)
		}
	}
	again.Spec.Selector.MatchLabels = map[string]string{"app": "other"}
	_, err = deployments.Update(s.ctx, again, metav1.UpdateOptions{})
	s.refused(err, apierrors.IsInvalid, "a change of an immutable field")

	named, err := s.client.CoreV1().ConfigMaps(s.namespace).Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "some-"}}, metav1.CreateOptions{})
	s.must(err)
	if !strings.HasPrefix(named.Name, "some-") || len(named.Name) != len("some-")+5 {
		s.Errorf("generated name is %q", named.Name)
	}
}

func conflicts(s *teller) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	first, err := maps.Create(s.ctx, configMap("shared", nil), metav1.CreateOptions{})
	s.must(err)
	second := first.DeepCopy()
	second.Data["key"] = "changed"
	second, err = maps.Update(s.ctx, second, metav1.UpdateOptions{})
	s.must(err)
	first.Data["key"] = "lost"
	_, err = maps.Update(s.ctx, first, metav1.UpdateOptions{})
	s.refused(err, apierrors.IsConflict, "an update of a stale object")

	same, err := maps.Update(s.ctx, second, metav1.UpdateOptions{})
	s.must(err)
	if same.ResourceVersion != second.ResourceVersion {
		s.Errorf("an update that changes nothing made version %s of %s", same.ResourceVersion, second.ResourceVersion)
	}
	second.ResourceVersion = "" // unconditional
	second.Data["key"] = "forced"
	_, err = maps.Update(s.ctx, second, metav1.UpdateOptions{})
	s.must(err)
	second.UID = "someone-else"
	_, err = maps.Update(s.ctx, second, metav1.UpdateOptions{})
	s.refused(err, apierrors.IsConflict, "an update of another object of the same name")
}

func statusSubresource(s *teller) {
	deployments := s.client.AppsV1().Deployments(s.namespace)
	d := deployment("web")
	d.Spec.Paused = true // a controller, where there is one, leaves it alone
	d.Spec.Replicas = pointer(int32(0))
	d.Status.ReadyReplicas = 7
	d, err := deployments.Create(s.ctx, d, metav1.CreateOptions{})
	s.must(err)
	if d.Status.ReadyReplicas != 0 {
		s.Error("creation set the status")
	}
	patch := []byte(`{"spec":{"minReadySeconds":9},"status":{"conditions":[{"type":"Tested","status":"True"}]}}`)
	d, err = deployments.Patch(s.ctx, "web", types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	s.must(err)
	if d.Spec.MinReadySeconds != 0 || len(d.Status.Conditions) == 0 {
		s.Errorf("the status subresource changed the spec: %+v", d)
	}
	if d.Generation != 1 {
		s.Errorf("a status change made generation %d", d.Generation)
	}
	d, err = deployments.Patch(s.ctx, "web", types.MergePatchType, patch, metav1.PatchOptions{})
	s.must(err)
	if d.Spec.MinReadySeconds != 9 || d.Generation != 2 {
		s.Errorf("a spec change: minReadySeconds %d, generation %d", d.Spec.MinReadySeconds, d.Generation)
	}
}

func patches(s *teller) {
	deployments := s.client.AppsV1().Deployments(s.namespace)
	d := deployment("web")
	d.Spec.Template.Spec.Containers = append(d.Spec.Template.Spec.Containers, corev1.Container{Name: "side", Image: "example.com/side:1"})
	_, err := deployments.Create(s.ctx, d, metav1.CreateOptions{})
	s.must(err)
	images := func(d *appsv1.Deployment) string {
		var all []string
		for _, c := range d.Spec.Template.Spec.Containers {
			all = append(all, c.Image)
		}
		return strings.Join(all, " ")
	}
	for _, p := range []struct {
		kind        types.PatchType
		patch, want string
	}{
		{types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"example.com/side:2"}]}}}}`, "example.com/app:1 example.com/side:2"},
		{types.JSONPatchType, `[{"op":"test","path":"/spec/template/spec/containers/0/name","value":"main"},{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"example.com/app:3"}]`, "example.com/app:3 example.com/side:2"},
		{types.MergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"example.com/app:4"}]}}}}`, "example.com/app:4"},
	} {
		d, err := deployments.Patch(s.ctx, "web", p.kind, []byte(p.patch), metav1.PatchOptions{})
		s.must(err)
		if got := images(d); got != p.want {
			s.Errorf("%s: containers are %q, want %q", p.kind, got, p.want)
		}
	}
	_, err = deployments.Patch(s.ctx, "web", types.JSONPatchType, []byte(`[{"op":"test","path":"/spec/replicas","value":99}]`), metav1.PatchOptions{})
	s.refused(err, apierrors.IsInvalid, "a patch whose test fails")
	_, err = deployments.Patch(s.ctx, "web", types.MergePatchType, []byte(`{"spec":`), metav1.PatchOptions{})
	s.refused(err, apierrors.IsBadRequest, "a broken patch")
	_, err = deployments.Patch(s.ctx, "absent", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{})
	s.refused(err, apierrors.IsNotFound, "a patch of nothing")
}

func serverSideApply(s *teller) {
	deployments := s.client.AppsV1().Deployments(s.namespace)
	apply := func(manager string, replicas int32, force bool) (*appsv1.Deployment, error) {
		labels := map[string]string{"app": "web"}
		return deployments.Apply(s.ctx, appsapply.Deployment("web", s.namespace).WithSpec(appsapply.DeploymentSpec().
			WithReplicas(replicas).WithSelector(metaapply.LabelSelector().WithMatchLabels(labels)).
			WithTemplate(coreapply.PodTemplateSpec().WithLabels(labels).WithSpec(coreapply.PodSpec().
				WithSchedulerName("nobody").WithContainers(coreapply.Container().WithName("main").WithImage("example.com/app:1"))))),
			metav1.ApplyOptions{FieldManager: manager, Force: force})
	}
	d, err := apply("alice", 2, false)
	s.must(err)
	if len(d.ManagedFields) != 1 || d.ManagedFields[0].Manager != "alice" || d.ManagedFields[0].Operation != metav1.ManagedFieldsOperationApply {
		s.Fatalf("managed fields: %+v", d.ManagedFields)
	}
	_, err = apply("bob", 2, false) // the same values: both own them
	s.must(err)
	_, err = apply("bob", 3, false)
	s.refused(err, apierrors.IsConflict, "a change of a field that alice owns")
	if !strings.Contains(err.Error(), "alice") || !strings.Contains(err.Error(), ".spec.replicas") {
		s.Errorf("the conflict names neither owner nor field: %v", err)
	}
	d, err = apply("bob", 3, true)
	s.must(err)
	if *d.Spec.Replicas != 3 {
		s.Errorf("replicas are %d", *d.Spec.Replicas)
	}
	// What nobody applies any more goes away.
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	_, err = maps.Apply(s.ctx, coreapply.ConfigMap("data", s.namespace).WithData(map[string]string{"a": "1", "b": "2"}), metav1.ApplyOptions{FieldManager: "alice"})
	s.must(err)
	_, err = maps.Patch(s.ctx, "data", types.MergePatchType, []byte(`{"data":{"c":"3"}}`), metav1.PatchOptions{FieldManager: "carol"})
	s.must(err)
	cm, err := maps.Apply(s.ctx, coreapply.ConfigMap("data", s.namespace).WithData(map[string]string{"a": "1"}), metav1.ApplyOptions{FieldManager: "alice"})
	s.must(err)
	if cm.Data["b"] != "" || cm.Data["c"] != "3" {
		s.Errorf("data after applying less: %v", cm.Data)
	}
}

func dryRun(s *teller) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	cm, err := maps.Create(s.ctx, configMap("ghost", nil), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	s.must(err)
	if cm.UID == "" {
		s.Error("a dry run does not show what would be created")
	}
	_, err = maps.Get(s.ctx, "ghost", metav1.GetOptions{})
	s.refused(err, apierrors.IsNotFound, "reading what a dry run created")
	_, err = maps.Create(s.ctx, configMap("real", nil), metav1.CreateOptions{})
	s.must(err)
	s.must(maps.Delete(s.ctx, "real", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}))
	_, err = maps.Patch(s.ctx, "real", types.MergePatchType, []byte(`{"data":{"key":"other"}}`), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
	s.must(err)
	cm, err = maps.Get(s.ctx, "real", metav1.GetOptions{})
	s.must(err)
	if cm.Data["key"] != "real" {
		s.Error("a dry run changed an object")
	}
}

func fieldValidation(s *teller) {
	body := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"odd"},"dta":{"a":"b"}}`
	post := func(mode string) *restResult {
		return s.raw("POST", s.path("/api/v1", "configmaps")+"?fieldValidation="+mode, body)
	}
	if r := post("Strict"); r.code != 400 || !strings.Contains(r.body, `unknown field \"dta\"`) {
		s.Errorf("strict: %d %s", r.code, r.body)
	}
	if r := post("Warn"); r.code != 201 || len(r.warnings) != 1 || !strings.Contains(r.warnings[0], "dta") {
		s.Errorf("warn: %d %v", r.code, r.warnings)
	}
	body = strings.Replace(body, "odd", "odd2", 1)
	if r := post("Ignore"); r.code != 201 || len(r.warnings) != 0 {
		s.Errorf("ignore: %d %v", r.code, r.warnings)
	}
}

func scale(s *teller) {
	deployments := s.client.AppsV1().Deployments(s.namespace)
	_, err := deployments.Create(s.ctx, deployment("web"), metav1.CreateOptions{})
	s.must(err)
	current, err := deployments.GetScale(s.ctx, "web", metav1.GetOptions{})
	s.must(err)
	if current.Spec.Replicas != 1 || current.Status.Selector != "app=web" {
		s.Errorf("scale is %+v", current)
	}
	current.Spec.Replicas = 4
	current.ResourceVersion = "" // a controller may have written the status meanwhile
	_, err = deployments.UpdateScale(s.ctx, "web", current, metav1.UpdateOptions{})
	s.must(err)
	patched := &autoscalingv1.Scale{}
	out := s.raw("PATCH", s.path("/apis/apps/v1", "deployments")+"/web/scale", `{"spec":{"replicas":5}}`, "Content-Type", string(types.MergePatchType))
	s.must(json.Unmarshal([]byte(out.body), patched))
	d, err := deployments.Get(s.ctx, "web", metav1.GetOptions{})
	s.must(err)
	if *d.Spec.Replicas != 5 || patched.Spec.Replicas != 5 || d.Generation != 3 {
		s.Errorf("deployment has %d replicas at generation %d, scale says %d", *d.Spec.Replicas, d.Generation, patched.Spec.Replicas)
	}
	_, err = deployments.UpdateScale(s.ctx, "web", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: s.namespace}, Spec: autoscalingv1.ScaleSpec{Replicas: -1}}, metav1.UpdateOptions{})
	s.refused(err, apierrors.IsInvalid, "a negative scale")
}
