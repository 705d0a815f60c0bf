// Health and capacity of the whole: what is wrong now, what changed, what is used.

import type { ComponentChildren } from 'preact'
import { useMemo } from 'preact/hooks'
import { Link } from '../router'
import { useNow } from '../store'
import { useKind, useNamespace } from '../kube/paths'
import type { Claim, Event, Node } from '../kube/types'
import { usePods, useWorkloads } from '../lists'
import { problems, type Problem } from '../health'
import { useChanges } from '../timeline'
import { ChangeList } from '../ui/changes'
import { alerts, firing } from '../alerting'
import { literal, quote, usePolled, useValue } from '../prom'
import { bytes, cores, count, percent, plural, quantity, seconds } from '../format'
import { Age, Empty, loading, Meter, Name, PageHead, Panel, Status, Trouble } from '../ui/parts'
import { Chart, Spark, type Mark } from '../ui/chart'
import { Icon } from '../ui/icons'

export default function Overview() {
  return <OverviewOf namespace={useNamespace()} />
}

interface Props { namespace: string; above?: ComponentChildren; actions?: ComponentChildren; /** What comes after the figures, and what at the end. */ middle?: ComponentChildren; children?: ComponentChildren }

export function OverviewOf({ namespace, above, actions, middle, children }: Props) {
  const { pods, sets } = usePods(namespace), workloads = useWorkloads(namespace)
  const nodes = useKind<Node>('nodes', ''), claims = useKind<Claim>('persistentvolumeclaims', namespace), events = useKind<Event>('events', namespace)
  const now = useNow(5)
  const told = usePolled(signal => alerts(signal), 10, []) // without the right to see alerts, objects tell alone
  const wrong = useMemo(() => {
    const found = problems({ pods: pods.items, sets: sets.items, workloads: workloads.items, nodes: nodes.items, claims: claims.items }, now)
    return [...found, ...firing(told.value ?? [], namespace, found)]
  },
    [pods.items, sets.items, workloads.items, nodes.items, claims.items, told.value, namespace, now])
  const changed = useChanges(namespace, 'deploy,rollback,scale,config,build', { sets: sets.items, events: events.items })
  const marks = useMemo<Mark[]>(() => changed.filter(c => c.kind === 'deploy').map(c => ({ at: c.at, label: c.object })), [changed])
  const busy = loading(pods) || workloads.loading
  const where = namespace ? `namespace=${quote(namespace)}` : '', routes = routesOf(namespace)
  const first = !busy && workloads.items.length === 0 && !namespace
  return <>
    <PageHead title={namespace || 'Overview'} above={above} says={busy ? 'Looking…' : <Verdict wrong={wrong} />}>{actions}</PageHead>
    <Trouble of={[pods, ...workloads.views]} />
    {first && <Start />}
    <Figures nodes={nodes.items} where={where} routes={routes} running={pods.items.filter(p => p.status.phase === 'Running').length} total={pods.items.filter(p => p.status.phase !== 'Succeeded').length} workloads={workloads.items.length} />
    <Panel title="Wrong now" class={wrong.length ? '' : 'calm'} aside={wrong.length ? <span class="faint">{wrong.length}</span> : null}>
      {wrong.length ? <ul class="rows">{wrong.slice(0, 12).map(p => <Row key={p.key} p={p} />)}</ul>
        : busy ? <div class="skeleton" aria-hidden="true"><i /></div>
        : <p class="body"><Icon name="check" /> <b>Nothing is wrong</b> <span class="faint">Every workload has the replicas it should have.</span></p>}
      {wrong.length > 12 && <Link to="/pods" class="more">All pods</Link>}
    </Panel>
    {middle}
    <div class="charts">
      <Chart title="Requests by answer" unit="rate" marks={marks} every={5} minutes={30} empty="No request has come through the gateway yet."
        lines={[
          { expr: `sum(rate(gantry_gateway_requests_total{${routes}code!~"5.."}[1m]))`, name: 'answered' },
          { expr: `sum(rate(gantry_gateway_requests_total{${routes}code=~"5.."}[1m]))`, name: 'errors', tone: 'bad' }]} />
      <Chart title="Latency at the gateway" unit="seconds" marks={marks} every={5} minutes={30} empty="No request has come through the gateway yet."
        lines={[0.5, 0.95, 0.99].map(q => ({ expr: `histogram_quantile(${q}, sum by (le) (rate(gantry_gateway_request_duration_seconds_bucket{${routes}}[1m])))`, name: `p${q * 100}` }))} />
      <Chart title={namespace ? 'Processor by pod' : 'Processor by namespace'} unit="cores" marks={marks} minutes={30} stacked
        lines={[{ expr: `sum by (${namespace ? 'pod' : 'namespace'}) (rate(container_cpu_usage_seconds_total{${where}}[1m]))`, name: l => l.pod ?? l.namespace ?? 'other' }]} />
      <Chart title={namespace ? 'Memory by pod' : 'Memory by namespace'} unit="bytes" marks={marks} minutes={30} stacked
        lines={[{ expr: `sum by (${namespace ? 'pod' : 'namespace'}) (container_memory_working_set_bytes{${where}})`, name: l => l.pod ?? l.namespace ?? 'other' }]} />
    </div>
    <div class="columns">
      <Panel title="Recent changes">
        {changed.length ? <ChangeList changes={changed} most={6} />
          : busy ? null : <Empty icon="deploy" title="Nothing was deployed yet">What is deployed, scaled or configured appears here, with who did it.</Empty>}
      </Panel>
      {children}
      {!namespace && <Nodes nodes={nodes.items} />}
    </div>
  </>
}

/** What to do on a machine on which nothing runs. */
function Start() {
  return <Panel title="Bring something up"><ol class="start">
    <li><b>An application</b><code>gantry up PATH</code><span class="faint">a folder with a Compose file or manifests: builds, deploys, prints the addresses</span></li>
    <li><b>Manifests</b><code>kubectl apply -f FILE</code><span class="faint">everything that speaks the Kubernetes API works</span></li>
    <li><b>A repository</b><code>gantry pipeline create</code><span class="faint">builds every commit, signs, scans and deploys it</span></li>
  </ol></Panel>
}

/** Matches the routes of a namespace in the gateway's metrics. */
const routesOf = (namespace: string) => namespace ? `route=~${quote(`[^/]+/${literal(namespace)}/.+`)},` : ''

function Verdict({ wrong }: { wrong: Problem[] }) {
  const critical = wrong.filter(p => p.severity === 'critical').length
  if (!wrong.length) return <Status health="ok">Everything is healthy</Status>
  return critical ? <Status health="bad">{plural(critical, 'thing')} {critical === 1 ? 'needs' : 'need'} attention</Status> : <Status health="busy">{plural(wrong.length, 'thing')} to keep an eye on</Status>
}

function Row({ p }: { p: Problem }) {
  return <li><Status health={p.severity === 'critical' ? 'bad' : 'busy'}><span class="hidden">{p.severity}</span></Status>
    <div><Name object={p.object} to={p.to} /> <b>{p.what}</b>{p.detail && <p class="faint line">{p.detail}</p>}</div>
    <span class="faint"><Age at={p.since} /></span></li>
}

function Figures({ nodes, where, routes, running, total, workloads }: { nodes: Node[]; where: string; routes: string; running: number; total: number; workloads: number }) {
  const sum = (of: (n: Node) => string | undefined) => nodes.length ? nodes.reduce((s, n) => s + (quantity(of(n)) || 0), 0) : null
  const cpuMax = sum(n => n.status.allocatable?.cpu), memoryMax = sum(n => n.status.allocatable?.memory)
  const cpu = useValue(where ? `sum(rate(container_cpu_usage_seconds_total{${where}}[1m]))` : 'sum(rate(node_cpu_seconds_total{mode!~"idle|iowait|steal"}[1m]))')
  const memory = useValue(where ? `sum(container_memory_working_set_bytes{${where}})` : 'sum(node_memory_MemTotal_bytes - node_memory_MemAvailable_bytes)')
  const cpuAsked = useValue(`sum(kube_pod_container_resource_requests{resource="cpu",${where}})`, 30), memoryAsked = useValue(`sum(kube_pod_container_resource_requests{resource="memory",${where}})`, 30)
  const requests = useValue(`sum(rate(gantry_gateway_requests_total{${routes}}[1m]))`, 5)
  const errors = useValue(`sum(rate(gantry_gateway_requests_total{${routes}code=~"5.."}[5m])) / (sum(rate(gantry_gateway_requests_total{${routes}}[5m])) > 0)`, 5)
  const p95 = useValue(`histogram_quantile(0.95, sum by (le) (rate(gantry_gateway_request_duration_seconds_bucket{${routes}}[5m])))`, 5)
  return <dl class="figures">
    <div><dt>Workloads</dt><dd>{workloads}</dd><dd class={running < total ? 'warning' : 'faint'}>{running} of {plural(total, 'pod')} running</dd></div>
    <div><dt>Processor</dt><dd>{cores(cpu)}{cpuMax !== null && <small> of {cores(cpuMax)} cores</small>}</dd><dd><Meter label="Processor used" value={cpu} max={cpuMax} mark={cpuAsked} /></dd></div>
    <div><dt>Memory</dt><dd>{bytes(memory)}{memoryMax !== null && <small> of {bytes(memoryMax)}</small>}</dd><dd><Meter label="Memory used" value={memory} max={memoryMax} mark={memoryAsked} /></dd></div>
    <div><dt>Requests</dt><dd>{count(requests)}<small> per second</small></dd><dd class="faint">95 % within {seconds(p95)}</dd><Spark expr={`sum(rate(gantry_gateway_requests_total{${routes}}[1m]))`} /></div>
    <div><dt>Errors</dt><dd class={errors && errors > 0.01 ? 'critical' : ''}>{requests === null ? '–' : percent(errors ?? 0)}</dd><dd class="faint">of answers, 5 minutes</dd><Spark tone="bad" expr={`sum(rate(gantry_gateway_requests_total{${routes}code=~"5.."}[1m])) > 0`} /></div>
  </dl>
}

function Nodes({ nodes }: { nodes: Node[] }) {
  if (!nodes.length) return null
  return <Panel title={nodes.length === 1 ? 'The machine' : 'Nodes'}>
    <ul class="rows nodes">{nodes.map(n => <NodeRow key={n.metadata.uid} n={n} />)}</ul>
  </Panel>
}

function NodeRow({ n }: { n: Node }) {
  const ready = n.status.conditions?.find(c => c.type === 'Ready')?.status === 'True', name = n.metadata.name
  const disk = useValue(`max(1 - node_filesystem_avail_bytes{instance=${quote(name)},mountpoint="/"} / node_filesystem_size_bytes{instance=${quote(name)},mountpoint="/"})`, 30)
  const load = useValue(`max(node_load1{instance=${quote(name)}})`, 10)
  const pods = useValue(`count(kube_pod_info{node=${quote(name)}})`, 10)
  return <li><Status health={ready ? 'ok' : 'bad'}>{ready ? 'Ready' : 'Not ready'}</Status>
    <div><b>{name}</b><p class="faint line">{n.status.nodeInfo?.osImage}, kernel {n.status.nodeInfo?.kernelVersion}, Kubernetes {n.status.nodeInfo?.kubeletVersion}</p></div>
    <span class="facts">{pods !== null && <span>{plural(pods, 'pod')}</span>}{load !== null && <span>load {count(load)}</span>}{disk !== null && <span>disk {percent(disk)} full</span>}<span>up <Age at={n.metadata.creationTimestamp} /></span></span></li>
}
