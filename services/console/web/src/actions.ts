// What people do to workloads: the same requests as kubectl's.

import { useEffect, useState } from 'preact/hooks'
import { askJSON, send } from './session'
import { pathOf } from './kube/paths'
import type { ReplicaSet, Resource } from './kube/types'
import { kindPlural, type Workload } from './workloads'

const at = (w: Workload) => pathOf(kindPlural[w.kind], w.namespace, w.name)

/** Starts every pod anew, as many at a time as the strategy allows (kubectl rollout restart). */
export const restart = (w: Workload) => send('PATCH', at(w), {
  spec: { template: { metadata: { annotations: { 'kubectl.kubernetes.io/restartedAt': new Date().toISOString() } } } },
}, 'application/strategic-merge-patch+json')

export const scale = (w: Workload, replicas: number) => send('PATCH', at(w) + '/scale', { spec: { replicas } }, 'application/merge-patch+json')

/** A former state of a workload's pods. */
export interface Revision { number: number; name: string; at: string; images: string[]; current: boolean; set?: ReplicaSet; data?: unknown }

/** Makes the pods what they were in a revision (kubectl rollout undo --to-revision). */
export function rollBack(w: Workload, r: Revision) {
  if (r.set) {
    const template = structuredClone(r.set.spec.template)
    if (template.metadata?.labels) delete template.metadata.labels['pod-template-hash']
    return send('PATCH', at(w), [{ op: 'replace', path: '/spec/template', value: template }], 'application/json-patch+json')
  }
  return send('PATCH', at(w), r.data, 'application/strategic-merge-patch+json')
}

export const deletePod = (namespace: string, name: string) => send('DELETE', pathOf('pods', namespace, name), {})

const answers = new Map<string, Promise<boolean>>()

/** Asks the API whether the person may do something; yes until it has answered. */
export function useMay(verb: string, group: string, resource: string, namespace: string, subresource = ''): boolean {
  const key = [verb, group, resource, subresource, namespace].join('/')
  const [may, set] = useState(true)
  useEffect(() => {
    let answer = answers.get(key)
    if (!answer) {
      const review = { apiVersion: 'authorization.k8s.io/v1', kind: 'SelfSubjectAccessReview', spec: { resourceAttributes: { verb, group, resource, subresource, namespace } } }
      answer = askJSON<{ status: { allowed: boolean } }>('/apis/authorization.k8s.io/v1/selfsubjectaccessreviews', {
        method: 'POST', body: JSON.stringify(review), headers: { 'Content-Type': 'application/json' },
      }).then(a => a.status.allowed, () => true)
      answers.set(key, answer)
      setTimeout(() => answers.delete(key), 60_000)
    }
    void answer.then(set)
  }, [key])
  return may
}

export type ControllerRevision = Resource & { revision: number; data: { spec?: { template?: { spec?: { containers?: { image: string }[] } } } } }
