// One route: its requests by answer, how long they take, who answers, and what policies demand.

import { useMemo } from 'preact/hooks'
import type { PageProps } from '../pages'
import { Link, withQuery } from '../router'
import { useKind, type Plural } from '../kube/paths'
import type { Service } from '../kube/types'
import { useWorkloads } from '../lists'
import { selects, kindInPath } from '../workloads'
import { pathTo } from '../router'
import { literal, quote, useQuery } from '../prom'
import { count, rate } from '../format'
import { ofGatewayRoute, ofIngress, policiesOf, routePlural, type Backend, type GatewayRoute, type Ingress, type RouteKind } from '../gateway'
import { usePolicies } from '../routes'
import { Empty, loading, PageHead, Panel, Skeleton, Status, Trouble } from '../ui/parts'
import { Table, type Column } from '../ui/table'
import { Chart } from '../ui/chart'

const quantiles = [0.5, 0.9, 0.99]

export default function RoutePage({ params: { kind, namespace, name } }: PageProps) {
  const known = (Object.keys(routePlural) as RouteKind[]).find(k => routePlural[k] === kind)
  return known ? <Of kind={known} namespace={namespace} name={name} /> : <Empty icon="gateway" title="There is no such kind of route">{kind}</Empty>
}

function Of({ kind, namespace, name }: { kind: RouteKind; namespace: string; name: string }) {
  const list = useKind<GatewayRoute>(routePlural[kind] as Plural, namespace)
  const object = list.items.find(r => r.metadata.name === name)
  const route = useMemo(() => object && (kind === 'Ingress' ? ofIngress(object as unknown as Ingress) : ofGatewayRoute(kind, object)), [object])
  const policies = usePolicies(), own = useMemo(() => route ? policiesOf(route, policies) : [], [route, policies])
  const label = `route=${quote(`${kind}/${namespace}/${name}`)}`
  if (!route) return <><PageHead title={name} above={<Link to="/gateway">Gateway</Link>} /><Trouble of={[list]} />
    {loading(list) ? <Skeleton /> : list.state !== 'refused' && <Empty icon="gateway" title="There is no such route">{namespace}/{name} was deleted, or never was.</Empty>}</>
  return <>
    <PageHead title={name} above={<><Link to="/gateway">Gateway</Link> / <Link to={withQuery('/gateway', { namespace })}>{namespace}</Link> / {kind}</>}
      says={<><Status health={route.accepted ? 'ok' : 'bad'}>{route.accepted ? 'Accepted' : 'Not accepted'}</Status> <span class="faint">{route.why ?? `${route.hosts.join(', ') || 'any host'} ${route.paths.slice(0, 4).join(', ')}`}</span></>} />
    <div class="charts">
      <Chart title="Requests by answer" unit="rate" every={5} minutes={30} empty="No request has come by this route yet."
        lines={[{ expr: `sum by (class) (label_replace(rate(gantry_gateway_requests_total{${label},code!~"5.."}[1m]), "class", "\${1}xx", "code", "(.).."))`, name: l => l.class ?? 'answered' },
          { expr: `sum(rate(gantry_gateway_requests_total{${label},code=~"5.."}[1m]))`, name: '5xx', tone: 'bad' }]} />
      <Chart title="Latency" unit="seconds" every={5} minutes={30} empty="No request has come by this route yet."
        lines={quantiles.map(q => ({ expr: `histogram_quantile(${q}, sum by (le) (rate(gantry_gateway_request_duration_seconds_bucket{${label}}[1m])))`, name: `p${q * 100}` }))} />
    </div>
    <Backends backends={route.backends} />
    <Panel title="Policies" aside={<span class="faint">{own.length}</span>}>
      {own.length ? <ul class="rows">{own.map(p => {
        const bad = p.status?.ancestors?.flatMap(a => a.conditions ?? []).find(c => c.status === 'False')
        return <li key={p.metadata.uid}><Status health={bad ? 'bad' : 'ok'}>{p.kind}</Status><span><b>{p.metadata.name}</b> <span class="faint">{bad?.message ?? Object.keys(p.spec).filter(k => k !== 'targetRefs').join(', ')}</span></span>
          <span class="faint">{p.spec.targetRefs?.map(t => `${t.kind} ${t.name}`).join(', ')}</span></li>
      })}</ul> : <Empty icon="audit" title="No policy bears on this route">Anybody may call it, as often as they like.</Empty>}
    </Panel>
  </>
}

interface Row extends Backend { id: string; rate: number; failed: number; available: number | null; away: number; flying: number; to: string }

function Backends({ backends }: { backends: Backend[] }) {
  const workloads = useWorkloads(''), services = useKind<Service>('services', '')
  const of = `service=~${quote(backends.map(b => literal(`${b.namespace}/${b.name}:`) + '.*').join('|') || 'none')}`
  const requests = useQuery(`sum by (service, result) (rate(gantry_gateway_upstream_requests_total{${of}}[1m]))`, 5)
  const endpoints = useQuery(`gantry_gateway_upstream_endpoints{${of}}`, 5), flying = useQuery(`gantry_gateway_upstream_in_flight{${of}}`, 5)
  const rows = useMemo<Row[]>(() => backends.map(b => {
    const mine = (s: { metric: Record<string, string> }) => s.metric.service?.startsWith(`${b.namespace}/${b.name}:`)
    const sum = (list: { value: number }[]) => list.reduce((n, s) => n + s.value, 0)
    const all = (requests.value ?? []).filter(mine), ends = (endpoints.value ?? []).filter(mine)
    const selector = services.items.find(s => s.metadata.namespace === b.namespace && s.metadata.name === b.name)?.spec.selector
    const w = selector && workloads.items.find(w => w.namespace === b.namespace && w.kind !== 'CronJob' && selects({ matchLabels: selector }, w.template.metadata?.labels))
    return {
      ...b, id: `${b.namespace}/${b.name}:${b.port}`, rate: sum(all), failed: sum(all.filter(s => /^(5xx|connect|reset|timeout)$/.test(s.metric.result))),
      available: ends.length ? sum(ends.filter(s => s.metric.state === 'available')) : null, away: sum(ends.filter(s => s.metric.state !== 'available')), flying: sum((flying.value ?? []).filter(mine)),
      to: w ? pathTo('workloads', w.namespace, kindInPath(w.kind), w.name) : withQuery('/pods', { namespace: b.namespace, text: b.name }),
    }
  }), [backends, requests.value, endpoints.value, flying.value, services.items, workloads.items])
  return <Table label="Backends" rows={rows} columns={columns} id={r => r.id} empty={<Empty icon="gateway" title="No Service is behind this route">It redirects, or answers by itself.</Empty>} />
}

const columns: Column<Row>[] = [
  { key: 'service', title: 'Service', cell: r => <Link to={r.to} class="name"><span class="faint">{r.namespace}/</span>{r.name}{r.port !== undefined && <span class="faint">:{r.port}</span>}</Link>, by: r => r.id },
  { key: 'endpoints', title: 'Endpoints', cell: r => r.available === null ? <span class="faint">–</span> : <Status health={r.available === 0 ? 'bad' : r.away ? 'busy' : 'ok'}>{r.available} available{r.away > 0 && `, ${r.away} left out`}</Status>, by: r => r.available ?? 0 },
  { key: 'weight', title: 'Weight', cell: r => r.weight ?? 1, by: r => r.weight ?? 1, right: true, wide: true },
  { key: 'flying', title: 'In flight', cell: r => count(r.flying), by: r => r.flying, right: true, wide: true },
  { key: 'rate', title: 'Requests', cell: r => rate(r.rate), by: r => r.rate, right: true },
  { key: 'failed', title: 'Failed', cell: r => r.failed > 0 ? <span class="critical">{rate(r.failed)}</span> : <span class="faint">0</span>, by: r => r.failed, right: true },
]
