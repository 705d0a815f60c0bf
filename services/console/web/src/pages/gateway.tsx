// The gateway: every route with what goes through it now.

import { useMemo } from 'preact/hooks'
import { Link, pathTo } from '../router'
import { useNamespace } from '../kube/paths'
import { quote, useQuery, type Sample } from '../prom'
import { percent, rate, seconds } from '../format'
import { routePlural, type Route } from '../gateway'
import { useRoutes } from '../routes'
import { Empty, PageHead, Status, Trouble } from '../ui/parts'
import { Table, type Column } from '../ui/table'
import { Chart } from '../ui/chart'

interface Row extends Route { rate: number; errors: number; p50: number | null; p99: number | null }

export const pathOfRoute = (r: Pick<Route, 'kind' | 'namespace' | 'name'>) => pathTo('gateway', routePlural[r.kind], r.namespace, r.name)

/** Errors are answers of 500 and above; 499 is a client that left. */
const columns: Column<Row>[] = [
  { key: 'route', title: 'Route', cell: r => <Link to={pathOfRoute(r)} class="name"><span class="faint">{r.namespace}/</span>{r.name}</Link>, by: r => `${r.namespace}/${r.name}` },
  { key: 'state', title: 'State', cell: r => r.accepted ? r.errors > 0 ? <Status health="bad">Errors</Status> : <Status health={r.rate > 0 ? 'ok' : 'idle'}>{r.rate > 0 ? 'Serving' : 'Quiet'}</Status> : <span title={r.why}><Status health="bad">Not accepted</Status></span>, by: r => r.accepted ? r.errors > 0 ? 1 : r.rate > 0 ? 2 : 3 : 0 },
  { key: 'host', title: 'Host', cell: r => <span class="faint">{r.hosts.slice(0, 2).join(', ') || 'any'}{r.hosts.length > 2 && ` and ${r.hosts.length - 2} more`}</span>, by: r => r.hosts.join(), wide: true },
  { key: 'rate', title: 'Requests', cell: r => rate(r.rate), by: r => r.rate, right: true },
  { key: 'errors', title: 'Errors', cell: r => r.errors > 0 ? <span class="critical">{percent(r.errors / r.rate)}</span> : <span class="faint">0 %</span>, by: r => r.rate ? r.errors / r.rate : 0, right: true },
  { key: 'p50', title: 'p50', cell: r => seconds(r.p50), by: r => r.p50 ?? -1, right: true, wide: true },
  { key: 'p99', title: 'p99', cell: r => seconds(r.p99), by: r => r.p99 ?? -1, right: true },
  { key: 'kind', title: 'Kind', cell: r => <span class="faint">{r.kind}</span>, by: r => r.kind, wide: true },
]

export default function GatewayPage() {
  const namespace = useNamespace(), routes = useRoutes()
  const only = namespace ? `{route=~${quote(`[A-Za-z]+/${namespace.replace(/[.]/g, '\\.')}/.+`)}}` : ''
  const and = (more: string) => only ? only.slice(0, -1) + ',' + more + '}' : `{${more}}`
  const rates = useQuery(`sum by (route) (rate(gantry_gateway_requests_total${only}[1m]))`, 5), errors = useQuery(`sum by (route) (rate(gantry_gateway_requests_total${and('code=~"5.."')}[1m]))`, 5)
  const quantile = (q: number) => `histogram_quantile(${q}, sum by (route, le) (rate(gantry_gateway_request_duration_seconds_bucket${only}[1m])))`
  const p50 = useQuery(quantile(0.5), 5), p99 = useQuery(quantile(0.99), 5)
  const rows = useMemo<Row[]>(() => {
    const by = (s: Sample[] | null) => new Map((s ?? []).map(x => [x.metric.route, x.value]))
    const r = by(rates.value), e = by(errors.value), a = by(p50.value), b = by(p99.value)
    const known = (v: number | undefined) => v !== undefined && isFinite(v) ? v : null
    return routes.items.map(x => ({ ...x, rate: r.get(x.label) ?? 0, errors: e.get(x.label) ?? 0, p50: known(a.get(x.label)), p99: known(b.get(x.label)) }))
  }, [routes.items, rates.value, errors.value, p50.value, p99.value])
  return <>
    <PageHead title="Gateway" says="Requests from outside: by which route they come, how long answers take, how many fail." />
    <Trouble of={routes.views} />
    {rates.error && <p class="notice" role="alert">{rates.error}</p>}
    <div class="charts">
      <Chart title="Requests by route" unit="rate" every={5} minutes={30} stacked empty="No request has come through the gateway yet."
        lines={[{ expr: `topk(6, sum by (route) (rate(gantry_gateway_requests_total${only}[1m])))`, name: l => l.route?.split('/').slice(1).join('/') || 'no route' }]} />
      <Chart title="Errors by route" unit="rate" every={5} minutes={30} stacked empty="No request failed."
        lines={[{ expr: `topk(6, sum by (route) (rate(gantry_gateway_requests_total${and('code=~"5.."')}[1m])) > 0)`, name: l => l.route?.split('/').slice(1).join('/') || 'no route' }]} />
    </div>
    <Table label="Routes" rows={rows} columns={columns} id={r => r.label} sort="-rate" text={r => `${r.label} ${r.hosts.join(' ')}`} loading={routes.loading}
      empty={<Empty icon="gateway" title="There are no routes">An Ingress, an HTTPRoute or a published Compose port makes one.</Empty>} />
  </>
}
