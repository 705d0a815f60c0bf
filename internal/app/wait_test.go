package app

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Each case is a workload as the server would return it, and how far it has come.
func TestObservingAWorkload(t *testing.T) {
	for _, c := range []struct {
		what, object string
		reached      await
		ready, of    int32
		failed       bool
	}{
		{what: "a deployment the controller has not seen", reached: awaitNothing, of: 2, object: `
kind: Deployment
metadata: {generation: 2}
spec: {replicas: 2}
status: {observedGeneration: 1, replicas: 2, updatedReplicas: 2, readyReplicas: 2, availableReplicas: 2}`, ready: 1},
		{what: "a deployment whose old pods are ready and new ones are coming", reached: awaitNothing, ready: 1, of: 2, object: `
kind: Deployment
metadata: {generation: 2}
spec: {replicas: 2}
status: {observedGeneration: 2, replicas: 3, updatedReplicas: 1, readyReplicas: 2, availableReplicas: 2}`},
		{what: "a deployment with an old pod left", reached: awaitStarted, ready: 3, of: 2, object: `
kind: Deployment
metadata: {generation: 2}
spec: {replicas: 2}
status: {observedGeneration: 2, replicas: 3, updatedReplicas: 2, readyReplicas: 3, availableReplicas: 3}`},
		{what: "a deployment that is done", reached: awaitComplete, ready: 2, of: 2, object: `
kind: Deployment
metadata: {generation: 2}
spec: {replicas: 2}
status: {observedGeneration: 2, replicas: 2, updatedReplicas: 2, readyReplicas: 2, availableReplicas: 2}`},
		{what: "a deployment of zero", reached: awaitComplete, object: `
kind: Deployment
metadata: {generation: 1}
spec: {replicas: 0}
status: {observedGeneration: 1}`},
		{what: "a deployment past its deadline", reached: awaitStarted, of: 1, failed: true, object: `
kind: Deployment
metadata: {generation: 1}
spec: {}
status: {observedGeneration: 1, replicas: 1, updatedReplicas: 1, conditions: [{type: Progressing, status: "False", reason: ProgressDeadlineExceeded, message: late}]}`},
		{what: "a stateful set whose pod is not ready", reached: awaitStarted, of: 1, object: `
kind: StatefulSet
metadata: {generation: 1}
spec: {replicas: 1}
status: {observedGeneration: 1, replicas: 1, updatedReplicas: 1, currentRevision: a, updateRevision: a}`},
		{what: "a stateful set that is done", reached: awaitComplete, ready: 1, of: 1, object: `
kind: StatefulSet
metadata: {generation: 1}
spec: {replicas: 1}
status: {observedGeneration: 1, replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1, currentRevision: a, updateRevision: a}`},
		{what: "a running job", reached: awaitStarted, of: 1, object: `
kind: Job
spec: {completions: 1}
status: {active: 1}`},
		{what: "a completed job", reached: awaitComplete, ready: 1, of: 1, object: `
kind: Job
spec: {completions: 1}
status: {succeeded: 1, conditions: [{type: Complete, status: "True"}]}`},
		{what: "a failed job", of: 1, failed: true, object: `
kind: Job
spec: {completions: 1}
status: {failed: 1, conditions: [{type: Failed, status: "True", reason: BackoffLimitExceeded}]}`},
		{what: "a definition that is served", reached: awaitComplete, ready: 1, of: 1, object: `
kind: CustomResourceDefinition
status: {conditions: [{type: Established, status: "True"}]}`},
	} {
		var content map[string]any
		if err := yaml.Unmarshal([]byte(c.object), &content); err != nil {
			t.Fatal(err)
		}
		got, err := observe(&unstructured.Unstructured{Object: content})
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if got.reached != c.reached || got.ready != c.ready || got.wanted != c.of || (got.failed != "") != c.failed {
			t.Errorf("%s: got %+v", c.what, got)
		}
	}
}

func TestTheRecordKnowsAnObjectWhateverVersionItIsWrittenIn(t *testing.T) {
	before := []objectRef{
		{APIVersion: "apps/v1beta1", Kind: "Deployment", Namespace: "demo", Name: "web"},
		{APIVersion: "v1", Kind: "Service", Namespace: "demo", Name: "old"},
		{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: "demo", Name: "data"},
	}
	now := []objectRef{{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "demo", Name: "web"}}
	gone := missing(before, now)
	if len(gone) != 2 || gone[0].Name != "old" || !gone[1].holdsData() {
		t.Errorf("obsolete: %v", gone)
	}
	if all := union(now, before); len(all) != 3 {
		t.Errorf("union: %v", all)
	}
}
