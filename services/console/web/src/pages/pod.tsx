// One pod: its containers and why they are as they are, its log, what happened to it.

import { useState } from 'preact/hooks'
import { go, Link, pathTo, withQuery } from '../router'
import { usePods } from '../lists'
import { ownerOf, podSays, kindInPath } from '../workloads'
import { deletePod, useMay } from '../actions'
import { bytes, cores, imageName, quantity } from '../format'
import { quote, useQuery } from '../prom'
import type { Container, ContainerStatus, Pod } from '../kube/types'
import type { PageProps } from '../pages'
import { Age, Empty, Meter, PageHead, Panel, Skeleton, Status, Trouble } from '../ui/parts'
import { Chart } from '../ui/chart'
import { Confirm } from '../ui/dialog'
import { Events } from '../ui/events'
import { Icon } from '../ui/icons'
import { LogView } from '../ui/logview'
import { Lazy } from '../ui/lazy'

export default function PodPage({ params: { namespace, name } }: PageProps) {
  const { pods, byUID } = usePods(namespace)
  const pod = pods.items.find(p => p.metadata.name === name)
  const [last, setLast] = useState<Pod | null>(null)
  if (pod && pod !== last) setLast(pod)
  const shown = pod ?? last
  if (!shown) return pods.state === 'loading' ? <><PageHead title={name} above={namespace} says="Looking…" /><Skeleton /></> : <>
    <PageHead title={name} above={namespace} /><Trouble of={[pods]} />
    <Empty icon="pods" title="There is no such pod">Pods come and go. <Link to={withQuery('/pods', { namespace })}>Pods of {namespace}</Link></Empty></>
  return <Shown pod={shown} gone={!pod} owner={ownerOf(shown, byUID)} />
}

function Shown({ pod, gone, owner }: { pod: Pod; gone: boolean; owner?: { kind: string; name: string } }) {
  const { namespace = '', name } = pod.metadata
  const s = podSays(pod)
  const [asking, setAsking] = useState(false)
  const [shell, setShell] = useState(false)
  const may = useMay('delete', '', 'pods', namespace), mayExec = useMay('create', '', 'pods', namespace, 'exec')
  const containers = [...(pod.spec.initContainers ?? []), ...pod.spec.containers]
  const statuses = [...(pod.status.initContainerStatuses ?? []), ...(pod.status.containerStatuses ?? [])]
  const where = `namespace=${quote(namespace)},pod=${quote(name)}`
  const cpu = useQuery(`sum by (container) (rate(container_cpu_usage_seconds_total{${where}}[1m]))`), memory = useQuery(`sum by (container) (container_memory_working_set_bytes{${where}})`)
  const of = (q: typeof cpu, c: string) => q.value?.find(v => v.metric.container === c)?.value ?? null
  const over = ['Succeeded', 'Failed'].includes(pod.status.phase ?? '')
  return <>
    <PageHead title={name} says={<><Status health={gone ? 'idle' : s.health}>{gone ? 'Gone' : s.says}</Status>{s.why && <span class="faint"> {s.why}</span>}</>}
      above={<><Link to={pathTo('namespaces', namespace)}>{namespace}</Link>{owner && <> · {owner.kind === 'ReplicaSet' ? owner.name : <Link to={pathTo('workloads', namespace, kindInPath(owner.kind), owner.name)}>{owner.name}</Link>}</>} · Pod</>}>
      <button type="button" disabled={!mayExec || gone || over} aria-pressed={shell} onClick={() => setShell(!shell)}><Icon name="shell" />Shell</button>
      <button type="button" class="danger" disabled={!may || gone} onClick={() => setAsking(true)}><Icon name="restart" />Replace</button>
    </PageHead>
    {shell && <Lazy load={() => import('../ui/shell')} props={{ namespace, pod: name, containers: pod.spec.containers.map(c => c.name), onClose: () => setShell(false) }} />}
    <Panel title="Containers">
      <ul class="rows containers">{containers.map(c => <ContainerRow key={c.name} c={c} s={statuses.find(x => x.name === c.name)} cpu={of(cpu, c.name)} memory={of(memory, c.name)} />)}</ul>
    </Panel>
    <Panel title="Log"><LogView namespace={namespace} pod={name} containers={pod.spec.containers.concat(pod.spec.initContainers ?? []).map(c => c.name)} ended={over || gone} restarted={s.restarts > 0} /></Panel>
    <div class="charts">
      <Chart title="Processor" unit="cores" minutes={30} lines={[{ expr: `sum by (container) (rate(container_cpu_usage_seconds_total{${where}}[1m]))`, name: l => l.container }, { expr: `sum(kube_pod_container_resource_limits{${where},resource="cpu"})`, name: 'limit', limit: true }]} />
      <Chart title="Memory" unit="bytes" minutes={30} lines={[{ expr: `sum by (container) (container_memory_working_set_bytes{${where}})`, name: l => l.container }, { expr: `sum(kube_pod_container_resource_limits{${where},resource="memory"})`, name: 'limit', limit: true }]} />
    </div>
    <div class="columns">
      <Panel title="About"><dl class="facts-list">
        <div><dt>Address</dt><dd class="mono">{pod.status.podIP ?? '–'}</dd></div>
        <div><dt>Node</dt><dd>{pod.spec.nodeName ?? 'not placed yet'}</dd></div>
        <div><dt>Service account</dt><dd>{pod.spec.serviceAccountName ?? 'default'}</dd></div>
        <div><dt>Created</dt><dd><Age at={pod.metadata.creationTimestamp} /> ago</dd></div>
        <div><dt>Labels</dt><dd>{Object.entries(pod.metadata.labels ?? {}).map(([k, v]) => <code key={k}>{k}={v}</code>)}</dd></div>
      </dl></Panel>
      <Events namespace={namespace} on={[name]} about={o => o.kind === 'Pod' && o.name === name} />
    </div>
    {asking && <Confirm title={`Replace ${name}?`} deed={owner ? 'Replace' : 'Delete'} danger onClose={() => setAsking(false)} act={async () => {
      await deletePod(namespace, name)
      go(owner && owner.kind !== 'ReplicaSet' ? pathTo('workloads', namespace, kindInPath(owner.kind), owner.name) : withQuery('/pods', { namespace }))
      return owner ? `${name} is replaced` : `${name} is deleted`
    }}>
      <p>{owner ? <>The pod is ended and {owner.kind} <b>{owner.name}</b> starts another one.</> : <>Nothing looks after this pod: it is ended and <b>does not come back</b>.</>}</p></Confirm>}
  </>
}

function ContainerRow({ c, s, cpu, memory }: { c: Container; s?: ContainerStatus; cpu: number | null; memory: number | null }) {
  const state = s?.state, last = s?.lastState?.terminated
  const health = state?.running ? (s!.ready || s!.started ? 'ok' : 'busy') : state?.terminated ? (state.terminated.exitCode ? 'bad' : 'idle') : state?.waiting?.reason && !/Creating|Initializing/.test(state.waiting.reason) ? 'bad' : 'busy'
  const says = state?.running ? 'Running' : state?.terminated?.reason ?? state?.waiting?.reason ?? 'Waiting'
  const cpuMax = quantity(c.resources?.limits?.cpu), memoryMax = quantity(c.resources?.limits?.memory)
  const { name: image, tag } = imageName(c.image)
  return <li><Status health={health}>{says}</Status>
    <div><b>{c.name}</b> <span class="faint" title={c.image}>{image}:{tag}</span>
      {state?.waiting?.message && <p class="faint wrap">{state.waiting.message}</p>}
      {last && <p class="faint wrap">Ended before with exit code {last.exitCode}{last.reason && last.reason !== 'Error' ? ` (${last.reason})` : ''}, <Age at={last.finishedAt} /> ago.{last.message && ` ${last.message}`}</p>}
    </div>
    <span class="use"><span>{cores(cpu)}{!isNaN(cpuMax) && ` of ${cores(cpuMax)}`} CPU{!isNaN(cpuMax) && <Meter label="Processor against the limit" value={cpu} max={cpuMax} />}</span>
      <span>{bytes(memory)}{!isNaN(memoryMax) && ` of ${bytes(memoryMax)}`}{!isNaN(memoryMax) && <Meter label="Memory against the limit" value={memory} max={memoryMax} />}</span></span></li>
}
