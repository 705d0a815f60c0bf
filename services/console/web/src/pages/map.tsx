// The live map: who talks to whom now, with a table that says the same.

import { useMemo, useState } from 'preact/hooks'
import { base, go, Link } from '../router'
import { useKind, useNamespace } from '../kube/paths'
import type { Service } from '../kube/types'
import { useWorkloads } from '../lists'
import { query, quote, usePolled } from '../prom'
import { bytes, rate } from '../format'
import { curve, graphOf, size, type Graph, type MapEdge, type MapNode, type Told } from '../map'
import { Empty, PageHead, Panel, Status, Trouble } from '../ui/parts'
import { Table, type Column } from '../ui/table'
import '../style/map.css'

const window_ = '1m'

function ask(namespace: string) {
  const n = namespace && quote(namespace)
  const either = (metric: string) => n
    ? `sum by (source_namespace,source_kind,source_workload,destination_namespace,destination_service) (rate(${metric}{source_namespace=${n}}[${window_}]) or rate(${metric}{destination_namespace=${n}}[${window_}]))`
    : `sum by (source_namespace,source_kind,source_workload,destination_namespace,destination_service) (rate(${metric}[${window_}]))`
  const service = n ? `{service=~${quote(namespace.replace(/[.]/g, '\\.') + '/.+')}}` : ''
  return async (signal: AbortSignal): Promise<Told> => {
    const [gateway, bytes, connections, refused] = await Promise.all([
      query(`sum by (service,result) (rate(gantry_gateway_upstream_requests_total${service}[${window_}]))`, signal),
      query(either('gantry_service_traffic_bytes_total'), signal),
      query(either('gantry_service_connections_total'), signal),
      query(either('gantry_service_refused_connections_total'), signal),
    ])
    return { gateway, bytes, connections, refused }
  }
}

export default function MapPage() {
  const namespace = useNamespace()
  const workloads = useWorkloads(), services = useKind<Service>('services')
  const told = usePolled(ask(namespace), 5, [namespace])
  const graph = useMemo(() => told.value && graphOf(told.value, workloads.items, services.items), [told.value, workloads.items, services.items])
  return <>
    <PageHead title="Map" says="Who talks to whom: the last minute, as the gateway and the kernel count it." />
    <Trouble of={[services, ...workloads.views]} />
    {told.error && <p class="notice" role="alert">{told.error}</p>}
    {graph && graph.edges.length > 0 && <Picture graph={graph} />}
    {graph && graph.edges.length === 0 && !told.error && <Panel><Empty icon="map" title="Nobody talks to anybody now">
      Traffic appears here some seconds after the first request.</Empty></Panel>}
    {!graph && !told.error && <Panel><div class="skeleton" aria-hidden="true"><i /><i /><i /></div></Panel>}
    {graph && <Connections graph={graph} />}
    {graph && graph.quiet.length > 0 && <Panel title="Without traffic" aside={<span class="faint">{graph.quiet.length}</span>}>
      <ul class="chips">{graph.quiet.slice(0, 200).map(n => <li key={n.id}><Link to={n.to ?? '/map'}><Status health={n.health}><span class="faint">{n.namespace}/</span>{n.title}</Status></Link></li>)}</ul>
    </Panel>}
  </>
}

const short = (text: string, most = 21) => text.length > most ? text.slice(0, most - 1) + '…' : text
const amount = (e: MapEdge) => e.requests !== null ? `${rate(e.requests).replace('/s', '')}${e.unit === 'requests' ? ' req/s' : ' conn/s'}` : bytes(e.bytes) + '/s'

function Picture({ graph }: { graph: Graph }) {
  const [chosen, choose] = useState('')
  const byID = useMemo(() => new Map(graph.nodes.map(n => [n.id, n])), [graph])
  const most = Math.max(1, ...graph.edges.map(weight))
  const touches = (e: MapEdge) => e.from === chosen || e.to === chosen
  const near = new Set(chosen ? graph.edges.filter(touches).flatMap(e => [e.from, e.to]) : [])
  return <section class="map panel" aria-label="Map of traffic. The table after it says the same.">
    <div class="map-scroll">
      <svg viewBox={`0 0 ${graph.width} ${graph.height}`} width={graph.width} height={graph.height} onMouseLeave={() => choose('')}>
        <defs><marker id="arrow" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="6" markerHeight="6" markerUnits="userSpaceOnUse" orient="auto"><path class="arrowhead" d="M0 0 6 3 0 6z" /></marker></defs>
        {graph.edges.map(e => {
          const a = byID.get(e.from)!, b = byID.get(e.to)!, d = curve(a, b), broken = e.failed > 0
          return <g key={e.id} class={`edge ${broken ? 'broken' : ''} ${chosen ? touches(e) ? 'near' : 'far' : ''}`} data-edge={e.id}>
            <path d={d} stroke-width={1 + 3.5 * Math.sqrt(weight(e) / most)} marker-end="url(#arrow)" />
            <path class="flow" d={d} />
            {(touches(e) || graph.edges.length <= 14) && <Label e={e} a={a} b={b} />}
          </g>
        })}
        {graph.nodes.map(n => <Node key={n.id} n={n} faded={chosen !== '' && !near.has(n.id) && n.id !== chosen} choose={choose} />)}
      </svg>
    </div>
  </section>
}

const weight = (e: MapEdge) => (e.bytes ?? 0) / 1024 + (e.requests ?? 0) * 4

function Label({ e, a, b }: { e: MapEdge; a: MapNode; b: MapNode }) {
  const forward = b.x > a.x
  const x = forward ? (a.x + size.width + b.x) / 2 : b.x === a.x ? a.x + size.width + 36 : (a.x + b.x + size.width) / 2, y = (a.y + b.y + size.height) / 2
  return <text x={x} y={y - 5} text-anchor="middle"><tspan>{amount(e)}</tspan>{e.failed > 0 && <tspan class="failed" x={x} dy="13">{rate(e.failed).replace('/s', '')} failed/s</tspan>}</text>
}

function Node({ n, faded, choose }: { n: MapNode; faded: boolean; choose: (id: string) => void }) {
  const body = <>
    <title>{[n.namespace && `${n.namespace}/${n.title}`, n.what, n.says].filter(Boolean).join(', ')}</title>
    <rect width={size.width} height={size.height} rx="8" />
    <circle class={n.health} cx="15" cy={n.namespace ? 18 : 23} r="4" />
    <text class="node-title" x="27" y={n.namespace ? 20 : 27}>{short(n.title)}</text>
    {n.namespace && <text class="node-says" x="27" y="36">{short(`${n.namespace} · ${n.says || n.what}`, 25)}</text>}
  </>
  // Where a node stands is told in CSS, so that it moves there instead of jumping.
  const props = { class: `node ${faded ? 'faded' : ''}`, style: { transform: `translate(${n.x}px, ${n.y}px)` }, onMouseEnter: () => choose(n.id), onFocus: () => choose(n.id), onBlur: () => choose('') }
  return n.to ? <a {...props} href={base + n.to}
    onClick={e => { if (!e.ctrlKey && !e.metaKey && !e.shiftKey) { e.preventDefault(); go(n.to!) } }}>{body}</a> : <g {...props}>{body}</g>
}

function Connections({ graph }: { graph: Graph }) {
  const byID = useMemo(() => new Map(graph.nodes.map(n => [n.id, n])), [graph])
  const columns = useMemo<Column<MapEdge>[]>(() => {
    const end = (id: string) => { const n = byID.get(id)!; return n.to ? <Link to={n.to} class="name">{n.namespace && <span class="faint">{n.namespace}/</span>}{n.title}</Link> : n.title }
    const name = (id: string) => { const n = byID.get(id); return n ? `${n.namespace}/${n.title}` : '' }
    return [
      { key: 'from', title: 'From', cell: e => end(e.from), by: e => name(e.from) },
      { key: 'to', title: 'To', cell: e => end(e.to), by: e => name(e.to) },
      { key: 'requests', title: 'Rate', cell: e => e.requests === null ? <span class="faint">kept open</span> : amount(e), by: e => e.requests ?? 0, right: true },
      { key: 'failed', title: 'Failed', cell: e => e.failed > 0 ? <span class="critical">{rate(e.failed)}</span> : <span class="faint">0</span>, by: e => e.failed, right: true },
      { key: 'bytes', title: 'Data', cell: e => e.bytes === null ? '–' : bytes(e.bytes) + '/s', by: e => e.bytes ?? 0, right: true, wide: true },
    ]
  }, [byID])
  return <Table label="Traffic" rows={graph.edges} columns={columns} id={e => e.id} sort="-bytes" text={e => `${e.from} ${e.to}`} empty={<Empty icon="map" title="No traffic in the last minute" />} />
}
