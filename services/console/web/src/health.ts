// What is wrong now, as far as the API's objects tell, and what changed lately.

import { pathTo } from './router'
import { controllerOf, images, kindInPath, ownerOf, podSays, revisionOf, type Workload } from './workloads'
import { imageName, plural } from './format'
import type { Claim, Event, Node, Pod, ReplicaSet } from './kube/types'

export interface Problem {
  key: string
  severity: 'critical' | 'warning'
  /** What is concerned: shop/cart. */
  object: string
  what: string
  detail?: string
  since: number
  to: string
}

const unschedulableAfter = 10_000, notReadyAfter = 30_000

const time = (t?: string) => t ? Date.parse(t) : 0

/** The problems of pods, one for each workload and kind of problem, the worst first. */
export function problems(o: { pods: Pod[]; sets: ReplicaSet[]; workloads: Workload[]; nodes: Node[]; claims: Claim[] }, now: number): Problem[] {
  const found = new Map<string, Problem & { count: number }>()
  const sets = new Map(o.sets.map(s => [s.metadata.uid, s]))
  const add = (p: Problem) => {
    const have = found.get(p.key)
    if (!have) found.set(p.key, { ...p, count: 1 })
    else { have.count++; have.since = Math.min(have.since, p.since) }
  }
  for (const pod of o.pods) {
    const s = podSays(pod), { namespace = '', name } = pod.metadata
    const ready = pod.status.conditions?.find(c => c.type === 'Ready')
    const since = time(ready?.lastTransitionTime) || time(pod.metadata.creationTimestamp)
    const owner = ownerOf(pod, sets)
    if (owner?.kind === 'Job' && pod.status.phase === 'Failed') continue // the Job says it
    const slow = s.says === 'Not ready' && now - since > notReadyAfter
    if (s.health !== 'bad' && !slow) continue
    if (s.says === 'Unschedulable' && now - since < unschedulableAfter) continue
    const title = owner?.name ?? name
    add({
      key: `${namespace}/${title}/${s.says}`, severity: slow ? 'warning' : 'critical', object: `${namespace}/${title}`,
      what: slow ? 'Not ready' : s.says, detail: s.why ?? ready?.message, since, to: pathTo('pods', namespace, name),
    })
  }
  const told = new Set([...found.values()].map(p => p.object))
  for (const w of o.workloads) {
    if (w.health !== 'bad' || w.says === 'Degraded' || w.says === 'Not ready' || told.has(`${w.namespace}/${w.name}`)) continue // its pods say it
    add({
      key: `${w.namespace}/${w.kind}/${w.name}`, severity: 'critical', object: `${w.namespace}/${w.name}`, what: w.says === 'Stuck' ? 'Rollout is stuck' : `${w.kind} failed`,
      detail: w.why, since: time(w.metadata.creationTimestamp), to: pathTo('workloads', w.namespace, kindInPath(w.kind), w.name),
    })
  }
  for (const n of o.nodes) for (const c of n.status.conditions ?? []) {
    const bad = c.type === 'Ready' ? c.status !== 'True' : c.status === 'True'
    if (bad) add({
      key: `node/${n.metadata.name}/${c.type}`, severity: c.type === 'Ready' ? 'critical' : 'warning', object: n.metadata.name,
      what: c.type === 'Ready' ? 'Node is not ready' : `Node: ${c.type}`, detail: c.message, since: time(c.lastTransitionTime), to: '/',
    })
  }
  for (const c of o.claims) if (c.status.phase === 'Lost') add({
    key: `claim/${c.metadata.uid}`, severity: 'critical', object: `${c.metadata.namespace}/${c.metadata.name}`, what: 'Volume is lost', since: time(c.metadata.creationTimestamp), to: '/volumes',
  })
  return [...found.values()]
    .map(({ count, ...p }) => count > 1 ? { ...p, what: `${p.what} · ${plural(count, 'pod')}` } : p)
    .sort((a, b) => a.severity.localeCompare(b.severity) || b.since - a.since)
}

export interface Change { key: string; at: number; object: string; what: string; to: string; kind: 'deploy' | 'scale' | 'other'; by?: string; bad?: boolean }

/** The newest changes first: revisions of Deployments, and what controllers scaled. */
export function changes(o: { sets: ReplicaSet[]; events: Event[] }, most = 50): Change[] {
  const list: Change[] = []
  for (const s of o.sets) {
    const owner = controllerOf(s), revision = revisionOf(s)
    if (owner?.kind !== 'Deployment' || !revision) continue
    const { namespace = '' } = s.metadata
    list.push({
      key: s.metadata.uid, at: time(s.metadata.creationTimestamp), object: `${namespace}/${owner.name}`, kind: 'deploy',
      what: revision === 1 ? `created with ${short(s)}` : `revision ${revision}: ${short(s)}`, to: pathTo('workloads', namespace, 'deployment', owner.name),
    })
  }
  const deployed = new Map<string, number[]>()
  for (const c of list) deployed.set(c.object, [...(deployed.get(c.object) ?? []), c.at])
  for (const e of o.events) {
    const { kind, namespace = '', name } = e.involvedObject, at = eventTime(e)
    // What a rollout scales is told by the rollout.
    if (e.reason === 'ScalingReplicaSet' && deployed.get(`${namespace}/${name}`)?.some(d => at >= d - 2000 && at < d + 60_000)) continue
    if (e.reason === 'SuccessfulRescale' || e.reason === 'Scaled' || (e.reason === 'ScalingReplicaSet' && /from \d/.test(e.message ?? ''))) list.push({
      key: e.metadata.uid, at, object: `${namespace}/${name}`, kind: 'scale', what: e.message ?? 'scaled',
      to: kind === 'Deployment' ? pathTo('workloads', namespace, 'deployment', name) : withoutPage,
    })
  }
  return list.sort((a, b) => b.at - a.at).slice(0, most)
}

const withoutPage = '/workloads'
const short = (s: ReplicaSet) => images(s.spec.template).map(i => { const { name, tag } = imageName(i); return `${name.split('/').at(-1)}:${tag}` }).join(', ')

/** When an event happened last. */
export const eventTime = (e: Event) => time(e.series?.lastObservedTime ?? e.lastTimestamp ?? e.eventTime ?? e.firstTimestamp ?? e.metadata.creationTimestamp)
