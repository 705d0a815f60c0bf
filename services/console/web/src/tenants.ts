// Whose a namespace is, and how much of its quotas it uses.

import { quantity } from './format'
import type { Resource } from './kube/types'

export const tenantLabel = 'gantry.dev/tenant'
const system = /^(kube-.*|gantry-system)$/

/** The tenant of a namespace; "" is nobody in particular. */
export const tenantOf = (n: Resource) => n.metadata.labels?.[tenantLabel] ?? ''
export const isSystem = (name: string) => system.test(name)

/** The group of a namespace in a list: its tenant, or whether the platform itself made it. Tenants come first. */
export const groupOf = (n: Resource, anyTenant: boolean) =>
  tenantOf(n) ? `Tenant ${tenantOf(n)}` : isSystem(n.metadata.name) ? 'The platform' : anyTenant ? 'Without a tenant' : 'Applications'
const order = (group: string) => group.startsWith('Tenant ') ? 0 : group === 'The platform' ? 2 : 1
export const compareGroups = (a: string, b: string) => order(a) - order(b) || a.localeCompare(b)

export interface Quota extends Resource { status?: { hard?: Record<string, string>; used?: Record<string, string> } }
export interface Used { quota: string; what: string; used: string; hard: string; part: number }

/** What quotas allow and how much of it is used, the fullest first. */
export function usage(quotas: Quota[]): Used[] {
  return quotas.flatMap(q => Object.entries(q.status?.hard ?? {}).map(([what, hard]) => {
    const used = q.status?.used?.[what] ?? '0', max = quantity(hard)
    return { quota: q.metadata.name, what, used, hard, part: max > 0 ? quantity(used) / max : quantity(used) > 0 ? 1 : 0 }
  })).sort((a, b) => b.part - a.part)
}

const words: Record<string, string> = {
  'requests.cpu': 'Processor asked for', 'limits.cpu': 'Processor limits', cpu: 'Processor asked for', 'requests.memory': 'Memory asked for', 'limits.memory': 'Memory limits', memory: 'Memory asked for',
  'requests.storage': 'Storage asked for', pods: 'Pods', services: 'Services', persistentvolumeclaims: 'Volumes', configmaps: 'ConfigMaps', secrets: 'Secrets',
}

/** A resource of a quota in words. */
export const inWords = (what: string) => words[what] ?? what.replace(/^count\//, '')
