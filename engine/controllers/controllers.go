package controllers

import "context"

// controller is one line in the table of contents: its name is that of its
// service account in kube-system.
type controller struct {
	name string
	new  func(ctx context.Context, e *environment) (run, error)
}

// run works until ctx ends.
type run func(ctx context.Context)

// all lists every controller, in the order in which they are made and started.
func all() []controller {
	return []controller{
		// Namespaces and identities: everything else happens in them.
		{"namespace-controller", newNamespace},
		{"service-account-controller", newServiceAccount},
		{"root-ca-cert-publisher", newRootCA},
		{"clusterrole-aggregation-controller", newRoleAggregation},

		// Workloads.
		{"deployment-controller", newDeployment},
		{"replicaset-controller", newReplicaSet},
		{"replication-controller", newReplication},
		{"statefulset-controller", newStatefulSet},
		{"daemon-set-controller", newDaemonSet},
		{"job-controller", newJob},
		{"cronjob-controller", newCronJob},
		{"ttl-after-finished-controller", newTTLAfterFinished},
		{"horizontal-pod-autoscaler", newAutoscaler},
		{"disruption-controller", newDisruption},

		// Services.
		{"endpointslice-controller", newEndpointSlice},
		{"endpointslicemirroring-controller", newEndpointSliceMirroring},
		{"endpoint-controller", newEndpoints},

		// Volumes.
		{"persistent-volume-binder", newVolumeBinder},
		{"pvc-protection-controller", newClaimProtection},
		{"pv-protection-controller", newVolumeProtection},
		{"ephemeral-volume-controller", newEphemeralVolume},
		{componentVolumes, newLocalVolumes},

		// Limits and order.
		{"resourcequota-controller", newQuota},
		{"node-controller", newTaintEviction},
		{"pod-garbage-collector", newPodCollector},
		{"generic-garbage-collector", newGarbageCollector},

		// Where pods go.
		{componentScheduler, newScheduler},
	}
}
