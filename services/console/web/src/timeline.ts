// What has changed, as the time line tells it; where there is none, as far as objects still tell it.

import { useMemo } from 'preact/hooks'
import { imageName } from './format'
import { changes, type Change } from './health'
import type { Event, ReplicaSet } from './kube/types'
import { usePolled } from './prom'
import { pathTo, withQuery } from './router'
import { askJSON } from './session'

/** An entry of /timeline/api/v1/events. */
export interface Entry {
  time: string; kind: 'deploy' | 'rollback' | 'scale' | 'restart' | 'config' | 'warning' | 'build' | 'alert'; severity: 'info' | 'warning' | 'error'
  namespace: string; workload?: string; object?: string; message: string; by?: string; end?: string; key?: string
}

const workloadKinds = ['deployment', 'statefulset', 'daemonset', 'job', 'cronjob']

/** Where an entry leads. */
export function pageOf(e: Entry): string {
  const [kind = '', name = ''] = (e.object ?? '').split('/')
  if (workloadKinds.includes(kind)) return pathTo('workloads', e.namespace, kind, name)
  if (kind === 'pod') return pathTo('pods', e.namespace, name)
  if (kind === 'build') return pathTo('builds', e.namespace, name)
  return withQuery('/workloads', { namespace: e.namespace, text: e.workload })
}

/** Images in a message without registry, and with the start of the digest. */
const shortImages = (text: string) => text.replace(/[^\s=@]+@sha256:[0-9a-f]{64}/g, image => { const { name, tag } = imageName(image); return `${name}:${tag}` })

export function toChange(e: Entry): Change {
  return {
    key: `${e.time} ${e.object} ${e.key ?? e.message}`, at: Date.parse(e.time), object: `${e.namespace}/${e.workload ?? e.object?.split('/').at(-1) ?? ''}`,
    what: shortImages(e.message), to: pageOf(e), by: e.by, bad: e.severity === 'error',
    kind: e.kind === 'rollback' ? 'deploy' : e.kind === 'deploy' || e.kind === 'scale' ? e.kind : 'other',
  }
}

/** The newest changes first, of a namespace or of all, or of one workload. */
export function useChanges(namespace: string, kinds: string, known: { sets: ReplicaSet[]; events: Event[] }, workload = ''): Change[] {
  const path = withQuery('/timeline/api/v1/events', { namespace, workload, kind: kinds, limit: '60' })
  const told = usePolled(signal => askJSON<{ events: Entry[] }>(path, { signal }), 5, [path])
  return useMemo(() => told.value?.events.length ? told.value.events.map(toChange)
    : changes(known).filter(c => !workload || c.object === `${namespace}/${workload}`), [told.value, known.sets, known.events])
}
