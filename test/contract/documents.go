package contract

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func (s *teller) background() context.Context { return context.WithoutCancel(s.ctx) }

func tables(s *teller) {
	_, err := s.client.CoreV1().Pods(s.namespace).Create(s.ctx, pod("main"), metav1.CreateOptions{})
	s.must(err)
	r := s.raw("GET", s.path("/api/v1", "pods"), "", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	var table metav1.Table
	s.must(json.Unmarshal([]byte(r.body), &table))
	var names []string
	for _, c := range table.ColumnDefinitions {
		names = append(names, c.Name)
	}
	want := []string{"Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"}
	if !slices.Equal(names, want) || len(table.Rows) != 1 || table.Rows[0].Cells[1] != "0/1" || table.Rows[0].Cells[2] != "Pending" {
		s.Errorf("columns %v, rows %v", names, table.Rows)
	}
	r = s.raw("GET", s.path("/api/v1", "pods")+"/main", "", "Accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
	var partial metav1.PartialObjectMetadata
	s.must(json.Unmarshal([]byte(r.body), &partial))
	if partial.Name != "main" || strings.Contains(r.body, `"spec"`) {
		s.Errorf("metadata only: %s", r.body)
	}
}

func discoveryDocuments(s *teller) {
	_, lists, err := s.client.Discovery().ServerGroupsAndResources()
	s.must(err)
	served := map[string][]string{}
	for _, l := range lists {
		for _, r := range l.APIResources {
			served[l.GroupVersion] = append(served[l.GroupVersion], r.Name)
		}
	}
	for gv, resources := range expectedResources {
		for _, r := range strings.Fields(resources) {
			if !slices.Contains(served[gv], r) {
				s.Errorf("%s in %s is not served", r, gv)
			}
		}
	}
	// The old documents say the same.
	for _, path := range []string{"/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1"} {
		if r := s.raw("GET", path, "", "Accept", "application/json"); r.code != 200 || !strings.Contains(r.body, `"kind":"API`) {
			s.Errorf("%s: %d %.200s", path, r.code, r.body)
		}
	}
	v, err := s.client.Discovery().ServerVersion()
	s.must(err)
	if v.Major != "1" || !strings.HasPrefix(v.GitVersion, "v1.") {
		s.Errorf("version %+v", v)
	}
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		if r := s.raw("GET", path, ""); r.code != 200 || r.body != "ok" {
			s.Errorf("%s: %d %s", path, r.code, r.body)
		}
	}
	if r := s.raw("GET", "/apis/no.such.group/v1/things", ""); r.code != 404 {
		s.Errorf("an unknown group: %d", r.code)
	}
}

// expectedResources is what a workload may count on.
var expectedResources = map[string]string{
	"v1": "namespaces namespaces/status namespaces/finalize pods pods/status pods/log pods/exec pods/attach pods/portforward pods/proxy pods/binding " +
		"pods/eviction pods/ephemeralcontainers pods/resize bindings podtemplates services services/status services/proxy endpoints configmaps secrets " +
		"serviceaccounts serviceaccounts/token nodes nodes/status nodes/proxy persistentvolumes persistentvolumes/status persistentvolumeclaims " +
		"persistentvolumeclaims/status replicationcontrollers replicationcontrollers/status replicationcontrollers/scale resourcequotas resourcequotas/status limitranges events",
	"apps/v1": "deployments deployments/status deployments/scale replicasets replicasets/status replicasets/scale statefulsets statefulsets/status " +
		"statefulsets/scale daemonsets daemonsets/status controllerrevisions",
	"batch/v1":                        "jobs jobs/status cronjobs cronjobs/status",
	"autoscaling/v1":                  "horizontalpodautoscalers horizontalpodautoscalers/status",
	"autoscaling/v2":                  "horizontalpodautoscalers horizontalpodautoscalers/status",
	"policy/v1":                       "poddisruptionbudgets poddisruptionbudgets/status",
	"networking.k8s.io/v1":            "ingresses ingresses/status ingressclasses networkpolicies",
	"discovery.k8s.io/v1":             "endpointslices",
	"coordination.k8s.io/v1":          "leases",
	"storage.k8s.io/v1":               "storageclasses csinodes csidrivers csistoragecapacities volumeattachments",
	"scheduling.k8s.io/v1":            "priorityclasses",
	"node.k8s.io/v1":                  "runtimeclasses",
	"rbac.authorization.k8s.io/v1":    "roles rolebindings clusterroles clusterrolebindings",
	"authentication.k8s.io/v1":        "tokenreviews selfsubjectreviews",
	"authorization.k8s.io/v1":         "subjectaccessreviews selfsubjectaccessreviews localsubjectaccessreviews selfsubjectrulesreviews",
	"events.k8s.io/v1":                "events",
	"apiextensions.k8s.io/v1":         "customresourcedefinitions customresourcedefinitions/status",
	"admissionregistration.k8s.io/v1": "validatingadmissionpolicies validatingadmissionpolicybindings validatingwebhookconfigurations mutatingwebhookconfigurations",
	"certificates.k8s.io/v1":          "certificatesigningrequests certificatesigningrequests/approval certificatesigningrequests/status",
}

func openAPIDocuments(s *teller) {
	paths, err := s.client.Discovery().OpenAPIV3().Paths()
	s.must(err)
	for _, root := range []string{"api/v1", "apis/apps/v1", "apis/batch/v1", "apis/apiextensions.k8s.io/v1"} {
		gv, ok := paths[root]
		if !ok {
			s.Errorf("no document of %s", root)
			continue
		}
		for _, kind := range []string{runtime.ContentTypeJSON, "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"} {
			doc, err := gv.Schema(kind)
			s.must(err)
			if len(doc) < 1000 {
				s.Errorf("%s as %s has %d bytes", root, kind, len(doc))
			}
			if kind == runtime.ContentTypeJSON && !strings.Contains(string(doc), `"x-kubernetes-group-version-kind"`) {
				s.Errorf("%s names no kinds", root)
			}
		}
	}
	if r := s.raw("GET", "/openapi/v2", "", "Accept", "application/json"); r.code != 200 || !strings.Contains(r.body, `"io.k8s.api.apps.v1.Deployment"`) {
		s.Errorf("OpenAPI v2: %d, %d bytes", r.code, len(r.body))
	}
}

func encodings(s *teller) {
	for _, kind := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		cfg := rest.CopyConfig(s.cfg)
		cfg.ContentType, cfg.AcceptContentTypes = kind, kind
		c, err := kubernetes.NewForConfig(cfg)
		s.must(err)
		name := "as-" + strings.ReplaceAll(strings.TrimPrefix(kind, "application/"), ".", "-")
		cm, err := c.CoreV1().ConfigMaps(s.namespace).Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, BinaryData: map[string][]byte{"b": {0, 255}}}, metav1.CreateOptions{})
		s.must(err)
		if len(cm.BinaryData["b"]) != 2 {
			s.Errorf("%s: %v", kind, cm.BinaryData)
		}
	}
	yaml := s.raw("POST", s.path("/api/v1", "configmaps"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: as-yaml}\n", "Content-Type", "application/yaml")
	if yaml.code != 201 {
		s.Errorf("YAML: %d %s", yaml.code, yaml.body)
	}
	if r := s.raw("GET", s.path("/api/v1", "configmaps"), "", "Accept", "text/html"); r.code != 406 {
		s.Errorf("an encoding that nobody speaks: %d", r.code)
	}
	if r := s.raw("POST", s.path("/api/v1", "configmaps"), "hello", "Content-Type", "text/plain"); r.code != 415 {
		s.Errorf("a body that is no object: %d", r.code)
	}
	big := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"big"},"data":{"a":"` + strings.Repeat("x", 4<<20) + `"}}`
	if r := s.raw("POST", s.path("/api/v1", "configmaps"), big); r.code != 413 {
		s.Errorf("a body that is too large: %d", r.code)
	}
}
