// Where the API has what the console shows, and which part of it is looked at.

import { createSetting, useStore } from '../store'
import { usePlace } from '../router'
import { askJSON } from '../session'
import type { Resource } from './types'
import { useList, type View } from './watch'

const groups = {
  pods: '/api/v1', services: '/api/v1', events: '/api/v1', nodes: '/api/v1', namespaces: '/api/v1', persistentvolumeclaims: '/api/v1',
  persistentvolumes: '/api/v1', configmaps: '/api/v1', serviceaccounts: '/api/v1', resourcequotas: '/api/v1',
  deployments: '/apis/apps/v1', replicasets: '/apis/apps/v1', statefulsets: '/apis/apps/v1', daemonsets: '/apis/apps/v1', controllerrevisions: '/apis/apps/v1',
  jobs: '/apis/batch/v1', cronjobs: '/apis/batch/v1',
  httproutes: '/apis/gateway.networking.k8s.io/v1', gateways: '/apis/gateway.networking.k8s.io/v1',
  grpcroutes: '/apis/gateway.networking.k8s.io/v1', ingresses: '/apis/networking.k8s.io/v1',
  tlsroutes: '/apis/gateway.networking.k8s.io/v1', tcproutes: '/apis/gateway.networking.k8s.io/v1',
  accesspolicies: '/apis/gantry.dev/v1alpha1', trafficpolicies: '/apis/gantry.dev/v1alpha1', backendpolicies: '/apis/gantry.dev/v1alpha1', trustpolicies: '/apis/gantry.dev/v1alpha1',
  pipelines: '/apis/gantry.dev/v1alpha1', builds: '/apis/gantry.dev/v1alpha1', scalepolicies: '/apis/gantry.dev/v1alpha1', tenants: '/apis/gantry.dev/v1alpha1',
} as const
export type Plural = keyof typeof groups

/** The path of a kind's objects, of one namespace or of all. */
export const pathOf = (kind: Plural, namespace = '', name = '') =>
  groups[kind] + (namespace && `/namespaces/${encodeURIComponent(namespace)}`) + `/${kind}` + (name && `/${encodeURIComponent(name)}`)

/** The namespace that is looked at; "" is all. A link may name it: ?namespace=shop. */
export const namespaceSetting = createSetting('gantry.namespace', '')
export function useNamespace(): string {
  const setting = useStore(namespaceSetting)
  return usePlace().query.get('namespace') ?? setting
}

/** The objects of a kind in the namespace that is looked at, or in the given one. */
export function useKind<T extends Resource>(kind: Plural, namespace?: string): View<T> {
  const looked = useNamespace()
  return useList<T>(pathOf(kind, namespace ?? looked))
}

/** Someone who may not look at all namespaces starts with their own. */
export async function startWhereAllowed(user: string): Promise<void> {
  if (namespaceSetting.get()) return
  const review = { apiVersion: 'authorization.k8s.io/v1', kind: 'SelfSubjectAccessReview', spec: { resourceAttributes: { verb: 'list', resource: 'pods' } } }
  const answer = await askJSON<{ status: { allowed: boolean } }>('/apis/authorization.k8s.io/v1/selfsubjectaccessreviews', {
    method: 'POST', body: JSON.stringify(review), headers: { 'Content-Type': 'application/json' },
  }).catch(() => null)
  if (answer && !answer.status.allowed) namespaceSetting.set(user.match(/^system:serviceaccount:([^:]+):/)?.[1] ?? 'default')
}
