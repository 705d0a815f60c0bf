// Routes of all kinds as one thing: what people reach under which name, and which Services answer.

import type { Condition, Resource } from './kube/types'

export type RouteKind = 'HTTPRoute' | 'GRPCRoute' | 'TLSRoute' | 'TCPRoute' | 'Ingress'
export const routePlural = { HTTPRoute: 'httproutes', GRPCRoute: 'grpcroutes', TLSRoute: 'tlsroutes', TCPRoute: 'tcproutes', Ingress: 'ingresses' } as const

export interface Backend { namespace: string; name: string; port?: number | string; weight?: number }
export interface Route {
  kind: RouteKind; namespace: string; name: string
  /** The label `route` of the gateway's metrics. */
  label: string
  hosts: string[]; paths: string[]; backends: Backend[]
  accepted: boolean; why?: string
  object: Resource
}

interface Ref { kind?: string; namespace?: string; name: string; port?: number; weight?: number }
export interface GatewayRoute extends Resource {
  spec: {
    hostnames?: string[]; parentRefs?: { name: string; namespace?: string; sectionName?: string }[]
    rules?: { matches?: { path?: { type?: string; value?: string }; method?: string | { service?: string; method?: string } }[]; backendRefs?: Ref[] }[]
  }
  status?: { parents?: { conditions?: Condition[] }[] }
}
interface IngressBackend { service?: { name: string; port?: { number?: number; name?: string } } }
export interface Ingress extends Resource {
  spec: { defaultBackend?: IngressBackend; rules?: { host?: string; http?: { paths: { path?: string; backend: IngressBackend }[] } }[] }
}

export function ofGatewayRoute(kind: Exclude<RouteKind, 'Ingress'>, r: GatewayRoute): Route {
  const { namespace = '', name } = r.metadata
  const bad = r.status?.parents?.flatMap(p => p.conditions ?? []).find(c => ['Accepted', 'ResolvedRefs'].includes(c.type) && c.status === 'False')
  const paths = (r.spec.rules ?? []).flatMap(u => (u.matches ?? []).map(m => typeof m.method === 'object' ? `/${m.method.service ?? '*'}/${m.method.method ?? '*'}` : m.path?.value ?? '/'))
  return {
    kind, namespace, name, label: `${kind}/${namespace}/${name}`, hosts: r.spec.hostnames ?? [], paths: unique(paths.length ? paths : ['/']),
    backends: distinct((r.spec.rules ?? []).flatMap(u => u.backendRefs ?? []).filter(b => (b.kind ?? 'Service') === 'Service').map(b => ({ namespace: b.namespace ?? namespace, name: b.name, port: b.port, weight: b.weight }))),
    accepted: !bad && (r.status?.parents?.length ?? 0) > 0, why: bad?.message ?? (r.status?.parents?.length ? undefined : 'No Gateway has taken it.'), object: r,
  }
}

export function ofIngress(i: Ingress): Route {
  const { namespace = '', name } = i.metadata, paths = (i.spec.rules ?? []).flatMap(r => r.http?.paths ?? [])
  const backends = [...paths.map(p => p.backend), ...(i.spec.defaultBackend ? [i.spec.defaultBackend] : [])].flatMap(b => b.service ? [{ namespace, name: b.service.name, port: b.service.port?.number ?? b.service.port?.name }] : [])
  return {
    kind: 'Ingress', namespace, name, label: `Ingress/${namespace}/${name}`, hosts: unique((i.spec.rules ?? []).flatMap(r => r.host ? [r.host] : [])),
    paths: unique(paths.map(p => p.path ?? '/')), backends: distinct(backends), accepted: true, object: i,
  }
}

const unique = (all: string[]) => [...new Set(all)]
const distinct = (all: Backend[]) => [...new Map(all.map(b => [`${b.namespace}/${b.name}:${b.port}`, b])).values()]

export interface Policy extends Resource {
  spec: { targetRefs?: { kind: string; name: string }[] } & Record<string, unknown>
  status?: { ancestors?: { conditions?: Condition[] }[] }
}

/** The policies that bear on a route: its own, its Gateway's, its namespace's, and those of the Services behind it. */
export function policiesOf(route: Route, policies: Policy[]): Policy[] {
  const gateways = (route.object as GatewayRoute).spec.parentRefs ?? []
  return policies.filter(p => (p.spec.targetRefs ?? []).some(t => {
    const here = p.metadata.namespace === route.namespace
    if (t.kind === route.kind) return here && t.name === route.name
    if (t.kind === 'Namespace') return here
    if (t.kind === 'Gateway') return gateways.some(g => g.name === t.name && (g.namespace ?? route.namespace) === p.metadata.namespace)
    return t.kind === 'Service' && route.backends.some(b => b.name === t.name && b.namespace === p.metadata.namespace)
  }))
}
