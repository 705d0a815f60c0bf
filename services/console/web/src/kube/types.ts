// The fields of API objects that the console reads.

export interface Meta {
  name: string; namespace?: string; uid: string; resourceVersion: string; creationTimestamp: string; deletionTimestamp?: string
  generation?: number; labels?: Record<string, string>; annotations?: Record<string, string>
  ownerReferences?: { kind: string; name: string; uid: string; controller?: boolean }[]
}
export interface Resource { metadata: Meta; kind?: string; apiVersion?: string }
export interface Condition { type: string; status: string; reason?: string; message?: string; lastTransitionTime?: string }

export type Quantities = Record<string, string>
export interface Container {
  name: string; image: string; command?: string[]
  resources?: { requests?: Quantities; limits?: Quantities }
  ports?: { name?: string; containerPort: number; protocol?: string }[]
}
export interface ContainerState {
  running?: { startedAt?: string }
  waiting?: { reason?: string; message?: string }
  terminated?: { reason?: string; message?: string; exitCode: number; startedAt?: string; finishedAt?: string }
}
export interface ContainerStatus {
  name: string; ready: boolean; restartCount: number; image: string; started?: boolean; state?: ContainerState; lastState?: ContainerState
}
export interface PodSpec { containers: Container[]; initContainers?: Container[]; nodeName?: string; serviceAccountName?: string }
export interface Pod extends Resource {
  spec: PodSpec
  status: {
    phase?: string; reason?: string; message?: string; podIP?: string; startTime?: string
    conditions?: Condition[]; containerStatuses?: ContainerStatus[]; initContainerStatuses?: ContainerStatus[]
  }
}
export interface Selector { matchLabels?: Record<string, string>; matchExpressions?: { key: string; operator: string; values?: string[] }[] }
export interface PodTemplate { metadata?: Partial<Meta>; spec: PodSpec }
export interface Deployment extends Resource {
  spec: { replicas?: number; selector: Selector; template: PodTemplate; paused?: boolean; strategy?: { type?: string } }
  status: { observedGeneration?: number; replicas?: number; updatedReplicas?: number; readyReplicas?: number; availableReplicas?: number; unavailableReplicas?: number; conditions?: Condition[] }
}
export interface ReplicaSet extends Resource {
  spec: { replicas?: number; selector: Selector; template: PodTemplate }
  status: { replicas?: number; readyReplicas?: number }
}
export interface StatefulSet extends Resource {
  spec: { replicas?: number; selector: Selector; template: PodTemplate; serviceName?: string }
  status: { observedGeneration?: number; replicas?: number; updatedReplicas?: number; readyReplicas?: number; availableReplicas?: number; currentRevision?: string; updateRevision?: string }
}
export interface DaemonSet extends Resource {
  spec: { selector: Selector; template: PodTemplate }
  status: { observedGeneration?: number; desiredNumberScheduled?: number; updatedNumberScheduled?: number; numberReady?: number; numberAvailable?: number }
}
export interface Job extends Resource {
  spec: { completions?: number; parallelism?: number; template: PodTemplate; suspend?: boolean }
  status: { active?: number; succeeded?: number; failed?: number; startTime?: string; completionTime?: string; conditions?: Condition[] }
}
export interface CronJob extends Resource {
  spec: { schedule: string; suspend?: boolean; jobTemplate: { spec: { template: PodTemplate } } }
  status: { active?: unknown[]; lastScheduleTime?: string; lastSuccessfulTime?: string }
}
export interface Node extends Resource {
  spec: { unschedulable?: boolean }
  status: { capacity?: Quantities; allocatable?: Quantities; conditions?: Condition[]; nodeInfo?: { kubeletVersion: string; osImage: string; kernelVersion: string } }
}
export interface Event extends Resource {
  involvedObject: { kind: string; namespace?: string; name: string; uid?: string }
  reason?: string; message?: string; type?: string; count?: number; firstTimestamp?: string; lastTimestamp?: string; eventTime?: string
  series?: { count: number; lastObservedTime: string }
}
export interface Claim extends Resource {
  spec: { storageClassName?: string; volumeName?: string; resources?: { requests?: Quantities } }
  status: { phase?: string; capacity?: Quantities }
}
export interface Service extends Resource {
  spec: { type?: string; clusterIP?: string; selector?: Record<string, string>; ports?: { name?: string; port: number; protocol?: string }[] }
}
export interface Namespace extends Resource { status: { phase?: string } }
