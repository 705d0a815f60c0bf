// One workload: its replicas and their rollout, what it uses and carries, and what can be done to it.

import { useMemo, useState } from 'preact/hooks'
import { Link, pathTo, withQuery } from '../router'
import { pathOf, useKind } from '../kube/paths'
import { useList } from '../kube/watch'
import type { Deployment, Event, Pod, ReplicaSet, Service } from '../kube/types'
import { usePods, useWorkloads } from '../lists'
import { controllerOf, images, kindOfPath, ownerOf, revisionOf, revisionsOf, selects, type Workload } from '../workloads'
import { restart, rollBack, scale, useMay, type ControllerRevision, type Revision } from '../actions'
import { bytes, cores, count, imageName, percent, plural, quantity, seconds } from '../format'
import { literal, quote, useValue } from '../prom'
import { has, type PageProps } from '../pages'
import { Age, Empty, Meter, PageHead, Panel, Skeleton, Status, Trouble } from '../ui/parts'
import { Chart, Spark, type Mark } from '../ui/chart'
import { Confirm } from '../ui/dialog'
import { useChanges } from '../timeline'
import { ChangeList } from '../ui/changes'
import { Events } from '../ui/events'
import { Icon } from '../ui/icons'
import { PodTable } from './pods'

export default function WorkloadPage({ params: { namespace, kind: text, name } }: PageProps) {
  const kind = kindOfPath(text)
  const { items, views, loading } = useWorkloads(namespace)
  const w = items.find(w => w.kind === kind && w.name === name)
  if (!w) return loading ? <><PageHead title={name} above={namespace} says="Looking…" /><Skeleton /></> : <>
    <PageHead title={name} above={namespace} /><Trouble of={views} />
    <Empty icon="workloads" title={`There is no ${kind ?? text} of this name`}>It may have been deleted. <Link to={withQuery('/workloads', { namespace })}>Workloads of {namespace}</Link></Empty></>
  return <Shown w={w} />
}

type Ask = { is: 'restart' } | { is: 'scale' } | { is: 'back'; to?: Revision } | null

function Shown({ w }: { w: Workload }) {
  const { namespace, name } = w
  const { pods, sets, byUID } = usePods(namespace)
  const mine = useMemo(() => pods.items.filter(p => { const o = ownerOf(p, byUID); return o?.kind === w.kind && o.name === name }), [pods.items, byUID, w.kind, name])
  const revisions = useRevisions(w, sets.items)
  const [ask, setAsk] = useState<Ask>(null)
  const resource = w.kind === 'Deployment' ? 'deployments' : w.kind === 'StatefulSet' ? 'statefulsets' : 'daemonsets'
  const may = useMay('patch', 'apps', resource, namespace), mayScale = useMay('patch', 'apps', resource, namespace, 'scale')
  const rolls = ['Deployment', 'StatefulSet', 'DaemonSet'].includes(w.kind), scales = ['Deployment', 'StatefulSet'].includes(w.kind)
  const former = revisions.filter(r => !r.current)
  const events = useKind<Event>('events', namespace)
  const changed = useChanges(namespace, '', { sets: sets.items, events: events.items }, name)
  const marks = useMemo<Mark[]>(() => revisions.map(r => ({ at: Date.parse(r.at), label: `revision ${r.number}` })), [revisions])
  const close = () => setAsk(null)
  return <>
    <PageHead title={name} above={<><Link to={pathTo('namespaces', namespace)}>{namespace}</Link> · {w.kind}</>} says={<><Status health={w.health}>{w.says}</Status>{w.why && <span class="faint"> {w.why}</span>}</>}>
      {has('/logs') && <Link class="button" to={withQuery('/logs', { namespace, pod: `${name}-` })}><Icon name="logs" />Logs</Link>}
      {rolls && <button type="button" disabled={!may} onClick={() => setAsk({ is: 'restart' })}><Icon name="restart" />Restart</button>}
      {scales && <button type="button" disabled={!mayScale} onClick={() => setAsk({ is: 'scale' })}><Icon name="scale" />Scale</button>}
      {rolls && <button type="button" disabled={!may || !former.length} title={former.length ? undefined : 'There is no former revision'} onClick={() => setAsk({ is: 'back' })}><Icon name="rollback" />Roll back</button>}
    </PageHead>
    <Trouble of={[pods, sets]} />
    {w.health === 'busy' && rolls && <Rollout w={w} pods={mine} revision={revisions.find(r => r.current)} />}
    <Figures w={w} pods={mine} />
    <Panel title="Pods"><PodTable plain pods={mine} byUID={byUID} namespace={namespace} loading={pods.state === 'loading'} empty={<Empty icon="pods" title={w.desired === 0 ? 'Scaled to zero' : 'No pods yet'} />} /></Panel>
    <Charts w={w} marks={marks} />
    <div class="columns">
      {rolls && <Panel title="Revisions">
        {revisions.length ? <ul class="rows">{revisions.map(r => <li key={r.name}><Status health={r.current ? 'ok' : 'idle'}><span class="hidden">{r.current ? 'current' : 'former'}</span></Status>
          <div><b>{r.number}</b> {r.current && <span class="faint">current</span>}<p class="faint line" title={r.images.join('\n')}>{r.images.map(shortImage).join(', ')}</p></div>
          <span class="facts"><Age at={r.at} />{!r.current && <button type="button" disabled={!may} onClick={() => setAsk({ is: 'back', to: r })}>Roll back</button>}</span></li>)}</ul> : <Empty title="None yet" />}
      </Panel>}
      {changed.length > 0 && <Panel title="Time line"><ChangeList changes={changed} /></Panel>}
    </div>
    <Events namespace={namespace} on={[mine, name, w.kind]} about={o => (o.kind === w.kind && o.name === name) || (o.kind === 'Pod' && mine.some(p => p.metadata.name === o.name)) || (o.kind === 'ReplicaSet' && w.kind === 'Deployment' && o.name.startsWith(name + '-') && sets.items.some(s => s.metadata.name === o.name && controllerOf(s)?.name === name))} />
    {ask?.is === 'restart' && <Confirm title={`Restart ${name}?`} deed="Restart" onClose={close} act={async () => { await restart(w); return `${name} restarts` }}>
      <p>{plural(w.desired, 'pod')} of <b>{namespace}/{name}</b> {w.desired === 1 ? 'is' : 'are'} replaced, a new one before an old one ends where the strategy allows it.</p></Confirm>}
    {ask?.is === 'scale' && <Scale w={w} onClose={close} />}
    {ask?.is === 'back' && <RollBack w={w} former={former} chosen={ask.to} onClose={close} />}
  </>
}

const shortImage = (i: string) => { const { name, tag } = imageName(i); return `${name}:${tag}` }

/** The revisions of a workload, the newest first. */
function useRevisions(w: Workload, sets: ReplicaSet[]): Revision[] {
  const controlled = useList<ControllerRevision>(w.kind === 'StatefulSet' || w.kind === 'DaemonSet' ? pathOf('controllerrevisions', w.namespace) : null)
  return useMemo(() => {
    if (w.kind === 'Deployment') {
      const now = revisionOf(w.object)
      return revisionsOf(w.object, sets).map(s => ({ number: revisionOf(s), name: s.metadata.name, at: s.metadata.creationTimestamp, images: images(s.spec.template), current: revisionOf(s) === now, set: s }))
    }
    const own = controlled.items.filter(r => controllerOf(r)?.uid === w.metadata.uid).sort((a, b) => b.revision - a.revision)
    return own.map((r, i) => ({ number: r.revision, name: r.metadata.name, at: r.metadata.creationTimestamp, images: (r.data.spec?.template?.spec?.containers ?? []).map(c => c.image), current: i === 0, data: r.data }))
  }, [w.object, sets, controlled.items])
}

function Rollout({ w, pods, revision }: { w: Workload; pods: Pod[]; revision?: Revision }) {
  const hash = revision?.set?.metadata.labels?.['pod-template-hash']
  const old = hash ? pods.filter(p => p.metadata.labels?.['pod-template-hash'] !== hash).length : Math.max(0, pods.length - w.updated)
  const fresh = hash ? pods.filter(p => p.metadata.labels?.['pod-template-hash'] === hash) : pods
  const ready = fresh.filter(p => p.status.conditions?.some(c => c.type === 'Ready' && c.status === 'True')).length
  const seen = ((w.object as Deployment).status.observedGeneration ?? 0) >= (w.metadata.generation ?? 0)
  const steps = [
    { name: 'Accepted', done: seen, says: seen ? 'by its controller' : 'waiting for its controller' },
    { name: 'New pods', done: seen && w.updated >= w.desired, says: `${Math.min(w.updated, w.desired)} of ${w.desired}` },
    { name: 'Ready', done: seen && ready >= w.desired, says: `${Math.min(ready, w.desired)} of ${w.desired}` },
    { name: 'Old pods gone', done: seen && ready >= w.desired && old === 0, says: old === 0 ? 'none left' : `${old} left` },
  ]
  const at = steps.findIndex(s => !s.done)
  return <Panel title={revision ? `Rollout of revision ${revision.number}` : 'Rollout'} class="rollout" aside={<span class="faint">{revision?.images.map(shortImage).join(', ')}</span>}>
    <ol class="steps">{steps.map((s, i) => <li key={s.name} class={s.done ? 'done' : i === at ? 'now' : ''} aria-current={i === at ? 'step' : undefined}><b>{s.name}</b><span class="faint">{s.says}</span></li>)}</ol>
  </Panel>
}

/** Matches the pods of a workload in PromQL. */
const podsOf = (w: Workload) => `namespace=${quote(w.namespace)},pod=~${quote(literal(w.name) + (w.kind === 'StatefulSet' ? '-[0-9]+' : w.kind === 'Deployment' ? '-[a-f0-9]+-[a-z0-9]{5}' : '-[a-z0-9]+(-[a-z0-9]{5})?'))}`

function Figures({ w, pods }: { w: Workload; pods: Pod[] }) {
  const of = podsOf(w)
  const cpu = useValue(`sum(rate(container_cpu_usage_seconds_total{${of}}[1m]))`), memory = useValue(`sum(container_memory_working_set_bytes{${of}})`)
  const throttled = useValue(`sum(rate(container_cpu_cfs_throttled_periods_total{${of}}[5m])) / (sum(rate(container_cpu_cfs_periods_total{${of}}[5m])) > 0)`, 20)
  const limit = (what: 'cpu' | 'memory', which: 'limits' | 'requests') => {
    const each = w.template.spec.containers.map(c => quantity(c.resources?.[which]?.[what]))
    return each.some(isNaN) ? null : each.reduce((a, b) => a + b, 0) * Math.max(1, pods.length)
  }
  const cpuMax = limit('cpu', 'limits'), memoryMax = limit('memory', 'limits')
  const routes = useRoutes(w)
  const of5 = `route=~${quote(routes.map(literal).join('|'))}`
  const requests = useValue(routes.length ? `sum(rate(gantry_gateway_requests_total{${of5}}[1m]))` : null, 5)
  const errors = useValue(routes.length ? `sum(rate(gantry_gateway_requests_total{${of5},code=~"5.."}[5m])) / (sum(rate(gantry_gateway_requests_total{${of5}}[5m])) > 0)` : null, 5)
  const p95 = useValue(routes.length ? `histogram_quantile(0.95, sum by (le) (rate(gantry_gateway_request_duration_seconds_bucket{${of5}}[5m])))` : null, 5)
  const restarts = pods.reduce((n, p) => n + (p.status.containerStatuses ?? []).reduce((m, c) => m + c.restartCount, 0), 0)
  return <dl class="figures">
    <div><dt>Replicas</dt><dd>{w.ready}<small> of {w.desired} ready</small></dd><dd class="faint">{restarts ? plural(restarts, 'restart') : 'no restarts'}</dd></div>
    <div><dt>Processor</dt><dd>{cores(cpu)}{cpuMax !== null && <small> of {cores(cpuMax)}</small>}</dd><dd>{cpuMax !== null ? <Meter label="Processor against the limit" value={cpu} max={cpuMax} mark={limit('cpu', 'requests')} /> : <span class="faint">no limit</span>}</dd>{throttled !== null && throttled > 0.01 && <dd class="warning">{percent(throttled)} throttled</dd>}</div>
    <div><dt>Memory</dt><dd>{bytes(memory)}{memoryMax !== null && <small> of {bytes(memoryMax)}</small>}</dd><dd>{memoryMax !== null ? <Meter label="Memory against the limit" value={memory} max={memoryMax} mark={limit('memory', 'requests')} /> : <span class="faint">no limit</span>}</dd></div>
    {routes.length > 0 && <div><dt>Requests</dt><dd>{count(requests)}<small> per second</small></dd><dd class="faint">95 % within {seconds(p95)}</dd><Spark expr={`sum(rate(gantry_gateway_requests_total{${of5}}[1m]))`} /></div>}
    {routes.length > 0 && <div><dt>Errors</dt><dd class={errors && errors > 0.01 ? 'critical' : ''}>{requests === null ? '–' : percent(errors ?? 0)}</dd><dd class="faint">of answers, 5 minutes</dd><Spark tone="bad" expr={`sum(rate(gantry_gateway_requests_total{${of5},code=~"5.."}[1m])) > 0`} /></div>}
  </dl>
}

interface Route { metadata: { name: string; namespace?: string; uid: string; resourceVersion: string; creationTimestamp: string }; spec: { rules?: { backendRefs?: { name: string; namespace?: string }[] }[] } }
interface Ingress { metadata: Route['metadata']; spec: { rules?: { http?: { paths: { backend: { service?: { name: string } } }[] } }[]; defaultBackend?: { service?: { name: string } } } }

/** The routes that lead to a workload, by the names that the gateway's metrics give them. */
function useRoutes(w: Workload): string[] {
  const services = useKind<Service>('services', w.namespace), routes = useKind<Route>('httproutes', w.namespace), grpc = useKind<Route>('grpcroutes', w.namespace), ingresses = useKind<Ingress>('ingresses', w.namespace)
  return useMemo(() => {
    const labels = w.template.metadata?.labels
    const mine = new Set(services.items.filter(s => s.spec.selector && Object.keys(s.spec.selector).length && selects({ matchLabels: s.spec.selector }, labels)).map(s => s.metadata.name))
    const leads = (r: Route) => r.spec.rules?.some(rule => rule.backendRefs?.some(b => mine.has(b.name) && (b.namespace ?? w.namespace) === w.namespace))
    const named = (kind: string, list: { metadata: Route['metadata'] }[]) => list.map(r => `${kind}/${r.metadata.namespace}/${r.metadata.name}`)
    return [...named('HTTPRoute', routes.items.filter(leads)), ...named('GRPCRoute', grpc.items.filter(leads)),
      ...named('Ingress', ingresses.items.filter(i => mine.has(i.spec.defaultBackend?.service?.name ?? '') || i.spec.rules?.some(r => r.http?.paths.some(p => mine.has(p.backend.service?.name ?? '')))))]
  }, [services.items, routes.items, grpc.items, ingresses.items, w.template.metadata?.labels])
}

function Charts({ w, marks }: { w: Workload; marks: Mark[] }) {
  const routes = useRoutes(w), of = podsOf(w), by = `route=~${quote(routes.map(literal).join('|'))}`
  const pod = (l: Record<string, string>) => l.pod.slice(w.name.length + 1) || l.pod
  const minutes = 30
  return <div class="charts">
    {routes.length > 0 && <>
      <Chart title="Requests by answer" unit="rate" marks={marks} every={5} minutes={minutes} lines={[
        { expr: `sum(rate(gantry_gateway_requests_total{${by},code!~"5.."}[1m]))`, name: 'answered' },
        { expr: `sum(rate(gantry_gateway_requests_total{${by},code=~"5.."}[1m]))`, name: 'errors', tone: 'bad' }]} />
      <Chart title="Latency" unit="seconds" marks={marks} every={5} minutes={minutes} lines={[0.5, 0.95, 0.99].map(q => ({ expr: `histogram_quantile(${q}, sum by (le) (rate(gantry_gateway_request_duration_seconds_bucket{${by}}[1m])))`, name: `p${q * 100}` }))} />
    </>}
    <Chart title="Processor by pod" unit="cores" marks={marks} minutes={minutes} lines={[
      { expr: `sum by (pod) (rate(container_cpu_usage_seconds_total{${of}}[1m]))`, name: pod },
      { expr: `max(kube_pod_container_resource_limits{${of},resource="cpu"})`, name: 'limit of a pod', limit: true }]} />
    <Chart title="Memory by pod" unit="bytes" marks={marks} minutes={minutes} lines={[
      { expr: `sum by (pod) (container_memory_working_set_bytes{${of}})`, name: pod },
      { expr: `max(kube_pod_container_resource_limits{${of},resource="memory"})`, name: 'limit of a pod', limit: true }]} />
    {routes.length === 0 && <Chart title="Network" unit="bytesPerSecond" marks={marks} minutes={minutes} lines={[
      { expr: `sum(rate(container_network_receive_bytes_total{${of}}[1m]))`, name: 'in' }, { expr: `sum(rate(container_network_transmit_bytes_total{${of}}[1m]))`, name: 'out' }]} />}
  </div>
}

function Scale({ w, onClose }: { w: Workload; onClose: () => void }) {
  const [n, set] = useState(String(w.desired))
  return <Confirm title={`Scale ${w.name}`} deed="Scale" onClose={onClose} act={async () => {
    if (!/^\d{1,4}$/.test(n)) throw new Error('Replicas are a number from 0 to 9999.')
    await scale(w, Number(n))
    return `${w.name} is to have ${plural(Number(n), 'replica')}`
  }}>
    <p><label>Replicas <input class="short" inputMode="numeric" autofocus value={n} onInput={e => set(e.currentTarget.value)} /></label> <span class="faint">now {w.desired}</span></p>
    <p class="faint">An autoscaler or ScalePolicy that looks after it may change the number again.</p></Confirm>
}

function RollBack({ w, former, chosen, onClose }: { w: Workload; former: Revision[]; chosen?: Revision; onClose: () => void }) {
  const [name, set] = useState((chosen ?? former[0]).name)
  const r = former.find(f => f.name === name) ?? former[0]
  return <Confirm title={`Roll ${w.name} back?`} deed="Roll back" onClose={onClose} act={async () => { await rollBack(w, r); return `${w.name} goes back to revision ${r.number}` }}>
    <p><label>To revision <select value={name} onChange={e => set(e.currentTarget.value)}>{former.map(f => <option key={f.name} value={f.name}>{f.number}: {f.images.map(shortImage).join(', ')}</option>)}</select></label></p>
    <dl class="diff">{images(w.template).map((now, i) => <div key={i}><dt class="faint">{w.template.spec.containers[i]?.name}</dt><dd><del>{shortImage(now)}</del> → <ins>{shortImage(r.images[i] ?? '–')}</ins></dd></div>)}</dl>
    <p class="faint">Its pods become what they were then: image, command, environment, resources. The number of replicas stays.</p></Confirm>
}
