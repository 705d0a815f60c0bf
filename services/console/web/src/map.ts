// Who talks to whom, as a graph and where its nodes stand. Pure functions.

import { kindInPath, selects, type Health, type Workload } from './workloads'
import { pathTo, withQuery } from './router'
import type { Service } from './kube/types'
import type { Sample } from './prom'

export interface MapNode {
  id: string; title: string; namespace: string; what: string; to?: string
  health: Health; says: string
  x: number; y: number
}
export interface MapEdge {
  id: string; from: string; to: string
  /** Requests a second at the gateway, or connections a second between pods; null where neither is known. */
  requests: number | null; unit: 'requests' | 'connections'
  failed: number; bytes: number | null
}
export interface Graph { nodes: MapNode[]; edges: MapEdge[]; quiet: MapNode[]; width: number; height: number }

export interface Told { gateway: Sample[]; bytes: Sample[]; connections: Sample[]; refused: Sample[] }

export const gatewayID = 'gateway', outsideID = 'outside'
export const size = { width: 172, height: 46, gapX: 96, gapY: 18, margin: 14 }

const failures = /^(5xx|connect|reset|timeout)$/

/** What was measured, by ends that people know: workloads, or services where no workload is behind. */
export function graphOf(told: Told, workloads: Workload[], services: Service[]): Graph {
  const nodes = new Map<string, MapNode>(), edges = new Map<string, MapEdge>()
  const byName = new Map(workloads.map(w => [`${w.namespace}/${w.kind}/${w.name}`, w]))
  const behind = new Map<string, Workload>()
  const inNamespace = new Map<string, Workload[]>()
  for (const w of workloads) inNamespace.set(w.namespace, [...inNamespace.get(w.namespace) ?? [], w])
  for (const s of services) {
    const selector = s.spec.selector
    if (!selector || !Object.keys(selector).length) continue
    const w = inNamespace.get(s.metadata.namespace!)?.find(w => w.kind !== 'CronJob' && selects({ matchLabels: selector }, w.template.metadata?.labels))
    if (w) behind.set(`${s.metadata.namespace}/${s.metadata.name}`, w)
  }
  const add = (id: string, n: Omit<MapNode, 'id' | 'x' | 'y'>) => {
    if (!nodes.has(id)) nodes.set(id, { ...n, id, x: 0, y: 0 })
    return id
  }
  const workload = (w: Workload) => add(`${w.namespace}/${w.kind}/${w.name}`, {
    title: w.name, namespace: w.namespace, what: w.kind, to: pathTo('workloads', w.namespace, kindInPath(w.kind), w.name), health: w.health,
    says: w.kind === 'CronJob' || w.kind === 'Job' ? w.says : `${w.ready} of ${w.desired} ready`,
  })
  const service = (namespace: string, name: string) => {
    const w = behind.get(`${namespace}/${name}`)
    return w ? workload(w) : add(`${namespace}/Service/${name}`, { title: name, namespace, what: 'Service', health: 'idle', says: 'no pods', to: withQuery('/pods', { namespace, text: name }) })
  }
  const outside = () => add(outsideID, { title: 'Outside', namespace: '', what: 'the network outside', health: 'ok', says: '' })
  const edge = (from: string, to: string, unit: MapEdge['unit']): MapEdge => {
    const id = `${from} ${to}`
    let e = edges.get(id)
    if (!e) edges.set(id, e = { id, from, to, requests: null, unit, failed: 0, bytes: null })
    return e
  }
  for (const { metric, value } of told.gateway) {
    const m = /^([^/]+)\/([^:]+):/.exec(metric.service ?? '')
    if (!m || !(value > 0)) continue
    const e = edge(add(gatewayID, { title: 'Gateway', namespace: '', what: 'all requests from outside', to: '/gateway', health: 'ok', says: '' }), service(m[1], m[2]), 'requests')
    e.requests = (e.requests ?? 0) + value
    if (failures.test(metric.result)) e.failed += value
  }
  const ends = (m: Record<string, string>): [string, string] | null => {
    const known = byName.get(`${m.source_namespace}/${m.source_kind}/${m.source_workload}`)
    const from = !m.source_workload ? outside() : known ? workload(known) : add(`${m.source_namespace}/${m.source_kind}/${m.source_workload}`,
      { title: m.source_workload, namespace: m.source_namespace, what: m.source_kind, health: 'idle', says: 'gone', to: withQuery('/pods', { namespace: m.source_namespace, text: m.source_workload }) })
    if (!m.destination_service) return m.destination_namespace ? null : [from, outside()]
    const to = service(m.destination_namespace, m.destination_service)
    return from === to ? null : [from, to]
  }
  const each = (samples: Sample[], apply: (e: MapEdge, value: number) => void) => {
    for (const { metric, value } of samples) if (value > 0) {
      const both = ends(metric)
      if (both) apply(edge(both[0], both[1], 'connections'), value)
    }
  }
  each(told.bytes, (e, v) => { e.bytes = (e.bytes ?? 0) + v })
  each(told.connections, (e, v) => { if (e.unit === 'connections') e.requests = (e.requests ?? 0) + v })
  each(told.refused, (e, v) => { e.failed += v })

  const list = [...edges.values()], busy = new Set(list.flatMap(e => [e.from, e.to]))
  for (const w of workloads) workload(w)
  const placed = [...nodes.values()].filter(n => busy.has(n.id))
  return { nodes: placed, edges: list, quiet: [...nodes.values()].filter(n => !busy.has(n.id)), ...place(placed, list) }
}

/** Puts nodes into columns by how far they are from where requests come in, with few crossings. The same graph is placed in the same way. */
export function place(nodes: MapNode[], edges: MapEdge[]): { width: number; height: number } {
  const out = new Map<string, string[]>(), into = new Map<string, string[]>()
  for (const e of edges) {
    out.set(e.from, [...out.get(e.from) ?? [], e.to])
    into.set(e.to, [...into.get(e.to) ?? [], e.from])
  }
  const rank = new Map<string, number>()
  // Depth first from the sources; an edge back to where one came from does not count.
  const visit = (id: string, depth: number, path: Set<string>) => {
    if (path.has(id) || depth > nodes.length || (rank.get(id) ?? -1) >= depth) return
    rank.set(id, depth)
    path.add(id)
    for (const next of out.get(id) ?? []) if (next !== outsideID) visit(next, depth + 1, path)
    path.delete(id)
  }
  const sorted = nodes.slice().sort((a, b) => a.id.localeCompare(b.id))
  const first = sorted.filter(n => n.id === gatewayID || (n.id === outsideID && out.has(n.id)) || !into.get(n.id)?.length)
  for (const n of first) visit(n.id, 0, new Set())
  for (const n of sorted) if (!rank.has(n.id) && n.id !== outsideID) visit(n.id, 0, new Set())
  const deepest = Math.max(0, ...rank.values())
  if (nodes.some(n => n.id === outsideID) && !rank.has(outsideID)) rank.set(outsideID, deepest + (deepest || nodes.length > 1 ? 1 : 0))
  const columns: MapNode[][] = []
  for (const n of sorted) (columns[rank.get(n.id) ?? 0] ??= []).push(n)
  const order = new Map<string, number>()
  const number = (c: MapNode[]) => c.forEach((n, i) => order.set(n.id, (i + 0.5) / c.length))
  columns.forEach(c => c && number(c))
  const mean = (ids: string[] | undefined, otherwise: number) => ids?.length ? ids.reduce((s, id) => s + (order.get(id) ?? 0.5), 0) / ids.length : otherwise
  for (let round = 0; round < 4; round++) for (const c of round % 2 ? columns.slice().reverse() : columns) if (c) {
    const of = round % 2 ? out : into
    const weight = new Map(c.map(n => [n.id, mean(of.get(n.id), order.get(n.id)!)]))
    c.sort((a, b) => weight.get(a.id)! - weight.get(b.id)! || a.id.localeCompare(b.id))
    number(c)
  }
  const tallest = Math.max(1, ...columns.map(c => c?.length ?? 0))
  const height = tallest * (size.height + size.gapY) - size.gapY + 2 * size.margin
  columns.forEach((c, i) => c?.forEach((n, j) => {
    const used = c.length * (size.height + size.gapY) - size.gapY
    n.x = size.margin + i * (size.width + size.gapX)
    n.y = (height - used) / 2 + j * (size.height + size.gapY)
  }))
  return { width: columns.length * (size.width + size.gapX) - size.gapX + 2 * size.margin, height }
}

/** The path of an edge, from the right side of a node to the left side of another, or around. */
export function curve(a: MapNode, b: MapNode): string {
  const y1 = a.y + size.height / 2, y2 = b.y + size.height / 2
  if (b.x > a.x) {
    const x1 = a.x + size.width, x2 = b.x - 5, bend = Math.max(30, (x2 - x1) / 2)
    return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`
  }
  if (b.x === a.x) {
    const x = a.x + size.width, out = x + 44
    return `M${x} ${y1}C${out} ${y1} ${out} ${y2} ${x + 5} ${y2}`
  }
  const x1 = a.x, x2 = b.x + size.width + 5, bend = Math.max(30, (x1 - x2) / 2)
  return `M${x1} ${y1}C${x1 - bend} ${y1} ${x2 + bend} ${y2} ${x2} ${y2}`
}
