// Deployments, StatefulSets, DaemonSets and Jobs as one thing: something that should run in so many
// replicas, and how far it is.

import type { Condition, Container, CronJob, DaemonSet, Deployment, Job, Meta, Pod, PodTemplate, ReplicaSet, Resource, Selector, StatefulSet } from './kube/types'

export type WorkloadKind = 'Deployment' | 'StatefulSet' | 'DaemonSet' | 'Job' | 'CronJob'
export type Health = 'ok' | 'busy' | 'bad' | 'idle'

export interface Workload {
  kind: WorkloadKind; namespace: string; name: string; metadata: Meta; template: PodTemplate
  desired: number; ready: number; updated: number; available: number
  health: Health
  /** In a few words: Running, Rolling out, Degraded. */
  says: string
  why?: string
  object: Resource
  selector?: Selector
}

export const kindPlural = { Deployment: 'deployments', StatefulSet: 'statefulsets', DaemonSet: 'daemonsets', Job: 'jobs', CronJob: 'cronjobs' } as const

/** The kind as it stands in a link. */
export const kindInPath = (kind: string) => kind.toLowerCase()
export const kindOfPath = (text: string): WorkloadKind | undefined => (Object.keys(kindPlural) as WorkloadKind[]).find(k => k.toLowerCase() === text)

const condition = (all: Condition[] | undefined, type: string) => all?.find(c => c.type === type)

function state(w: Pick<Workload, 'desired' | 'ready' | 'updated' | 'available'>, seen: boolean, stuck?: Condition): Pick<Workload, 'health' | 'says' | 'why'> {
  if (stuck) return { health: 'bad', says: 'Stuck', why: stuck.message }
  if (!seen) return { health: 'busy', says: 'Waiting' }
  if (w.desired === 0 && w.ready === 0) return { health: 'idle', says: 'Scaled to zero' }
  if (w.updated < w.desired) return { health: 'busy', says: 'Rolling out' }
  if (w.ready < w.desired) return w.ready === 0 ? { health: 'bad', says: 'Not ready' } : { health: 'bad', says: 'Degraded' }
  if (w.ready > w.desired) return { health: 'busy', says: 'Scaling down' }
  return { health: 'ok', says: 'Running' }
}

export function ofDeployment(d: Deployment): Workload {
  const s = d.status, counts = { desired: d.spec.replicas ?? 1, ready: s.readyReplicas ?? 0, updated: s.updatedReplicas ?? 0, available: s.availableReplicas ?? 0 }
  const progress = condition(s.conditions, 'Progressing')
  const stuck = progress?.status === 'False' ? progress : condition(s.conditions, 'ReplicaFailure')?.status === 'True' ? condition(s.conditions, 'ReplicaFailure') : undefined
  const st = state(counts, (s.observedGeneration ?? 0) >= (d.metadata.generation ?? 0), stuck)
  // A first start or a scale-up that is under way is no fault yet.
  if (st.says !== 'Stuck' && st.health === 'bad' && progress?.reason !== 'NewReplicaSetAvailable') Object.assign(st, { health: 'busy', says: 'Starting' })
  if (d.spec.paused && st.health === 'busy') Object.assign(st, { says: 'Paused' })
  return { kind: 'Deployment', namespace: d.metadata.namespace!, name: d.metadata.name, metadata: d.metadata, template: d.spec.template, ...counts, ...st, object: d, selector: d.spec.selector }
}

export function ofStatefulSet(d: StatefulSet): Workload {
  const s = d.status, desired = d.spec.replicas ?? 1
  const counts = { desired, ready: s.readyReplicas ?? 0, updated: s.updateRevision === s.currentRevision ? desired : s.updatedReplicas ?? 0, available: s.availableReplicas ?? 0 }
  return { kind: 'StatefulSet', namespace: d.metadata.namespace!, name: d.metadata.name, metadata: d.metadata, template: d.spec.template, ...counts, ...state(counts, (s.observedGeneration ?? 0) >= (d.metadata.generation ?? 0)), object: d, selector: d.spec.selector }
}

export function ofDaemonSet(d: DaemonSet): Workload {
  const s = d.status, counts = { desired: s.desiredNumberScheduled ?? 0, ready: s.numberReady ?? 0, updated: s.updatedNumberScheduled ?? 0, available: s.numberAvailable ?? 0 }
  return { kind: 'DaemonSet', namespace: d.metadata.namespace!, name: d.metadata.name, metadata: d.metadata, template: d.spec.template, ...counts, ...state(counts, (s.observedGeneration ?? 0) >= (d.metadata.generation ?? 0)), object: d, selector: d.spec.selector }
}

export function ofJob(j: Job): Workload {
  const failed = condition(j.status.conditions, 'Failed'), done = condition(j.status.conditions, 'Complete')
  const desired = j.spec.completions ?? j.spec.parallelism ?? 1, ready = j.status.succeeded ?? 0
  const st: Pick<Workload, 'health' | 'says' | 'why'> = failed?.status === 'True' ? { health: 'bad', says: 'Failed', why: failed.message }
    : done?.status === 'True' ? { health: 'idle', says: 'Complete' }
    : j.spec.suspend ? { health: 'idle', says: 'Suspended' } : { health: 'busy', says: j.status.active ? 'Running' : 'Waiting' }
  return { kind: 'Job', namespace: j.metadata.namespace!, name: j.metadata.name, metadata: j.metadata, template: j.spec.template, desired, ready, updated: desired, available: ready, ...st, object: j }
}

export function ofCronJob(c: CronJob): Workload {
  const active = c.status.active?.length ?? 0
  return {
    kind: 'CronJob', namespace: c.metadata.namespace!, name: c.metadata.name, metadata: c.metadata, template: c.spec.jobTemplate.spec.template,
    desired: active, ready: active, updated: active, available: active, health: c.spec.suspend ? 'idle' : 'ok', says: c.spec.suspend ? 'Suspended' : 'Scheduled', why: c.spec.schedule, object: c,
  }
}

/** Whether labels fit a selector (apimachinery, LabelSelector). */
export function selects(selector: Selector | undefined, labels: Record<string, string> = {}): boolean {
  if (!selector) return false
  for (const [k, v] of Object.entries(selector.matchLabels ?? {})) if (labels[k] !== v) return false
  for (const { key, operator, values = [] } of selector.matchExpressions ?? []) {
    const has = key in labels
    if (operator === 'In' && !(has && values.includes(labels[key]))) return false
    if (operator === 'NotIn' && has && values.includes(labels[key])) return false
    if (operator === 'Exists' && !has) return false
    if (operator === 'DoesNotExist' && has) return false
  }
  return true
}

export const controllerOf = (o: Resource) => o.metadata.ownerReferences?.find(r => r.controller)

/** The workload that a pod belongs to, by its controller's name: a ReplicaSet's is its Deployment. */
export function ownerOf(pod: Pod, sets: Map<string, ReplicaSet>): { kind: string; name: string } | undefined {
  const c = controllerOf(pod)
  if (c?.kind !== 'ReplicaSet') return c
  const set = sets.get(c.uid)
  if (set) return controllerOf(set) ?? c
  const hash = pod.metadata.labels?.['pod-template-hash']
  return hash && c.name.endsWith('-' + hash) ? { kind: 'Deployment', name: c.name.slice(0, -hash.length - 1) } : c
}

export const revisionOf = (o: Resource) => Number(o.metadata.annotations?.['deployment.kubernetes.io/revision'] ?? 0)

/** The ReplicaSets of a Deployment, the newest revision first. */
export function revisionsOf(d: Resource, sets: ReplicaSet[]): ReplicaSet[] {
  return sets.filter(s => controllerOf(s)?.uid === d.metadata.uid).sort((a, b) => revisionOf(b) - revisionOf(a))
}

export interface PodSays { health: Health; says: string; why?: string; restarts: number; ready: number; total: number }

/** What kubectl's STATUS column says, and whether that is good. */
export function podSays(p: Pod): PodSays {
  const init = p.status.initContainerStatuses ?? [], main = p.status.containerStatuses ?? []
  const restarts = main.reduce((n, c) => n + c.restartCount, 0) + init.reduce((n, c) => n + c.restartCount, 0)
  const counts = { restarts, ready: main.filter(c => c.ready).length, total: p.spec.containers.length }
  if (p.metadata.deletionTimestamp) return { ...counts, health: 'busy', says: 'Terminating' }
  for (const c of [...init, ...main]) {
    const waiting = c.state?.waiting
    if (waiting?.reason && !['PodInitializing', 'ContainerCreating'].includes(waiting.reason))
      return { ...counts, health: 'bad', says: waiting.reason, why: why(c.lastState?.terminated, waiting.message) }
  }
  if (p.status.phase === 'Succeeded') return { ...counts, health: 'idle', says: 'Completed' }
  if (p.status.phase === 'Failed') {
    const t = main.find(c => c.state?.terminated?.exitCode)?.state?.terminated
    return { ...counts, health: 'bad', says: p.status.reason ?? t?.reason ?? 'Failed', why: p.status.message ?? why(t) }
  }
  const unscheduled = condition(p.status.conditions, 'PodScheduled')
  if (unscheduled?.status === 'False') return { ...counts, health: 'bad', says: unscheduled.reason ?? 'Pending', why: unscheduled.message }
  if (p.status.phase === 'Pending') return { ...counts, health: 'busy', says: init.some(c => c.state?.running) ? 'Initializing' : 'Starting' }
  const ended = main.find(c => c.state?.terminated)
  if (ended?.state?.terminated) return { ...counts, health: ended.state.terminated.exitCode ? 'bad' : 'busy', says: ended.state.terminated.reason ?? 'Ended', why: why(ended.state.terminated) }
  if (counts.ready < counts.total) return { ...counts, health: 'busy', says: 'Not ready' }
  return { ...counts, health: 'ok', says: 'Running' }
}

function why(t?: { reason?: string; exitCode: number; message?: string }, otherwise?: string): string | undefined {
  if (!t) return otherwise
  if (t.reason === 'OOMKilled') return 'The container used more memory than its limit and was killed.'
  return [`exit code ${t.exitCode}`, t.message?.trim().split('\n').at(-1)].filter(Boolean).join(': ')
}

export const images = (t: PodTemplate): string[] => t.spec.containers.map((c: Container) => c.image)
