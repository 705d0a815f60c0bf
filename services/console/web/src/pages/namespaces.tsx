// All namespaces, by tenant: how they are, what they carry and use, and how full their quotas are.

import { useMemo } from 'preact/hooks'
import { pathTo } from '../router'
import { useKind } from '../kube/paths'
import type { Namespace, Node, Pod } from '../kube/types'
import { useWorkloads } from '../lists'
import { podSays } from '../workloads'
import { bytes, cores, percent, plural, quantity, rate } from '../format'
import { useQuery } from '../prom'
import { compareGroups, groupOf, inWords, tenantOf, usage, type Quota } from '../tenants'
import { Age, Empty, Meter, Name, PageHead, Status, Trouble } from '../ui/parts'
import { Table, type Column } from '../ui/table'

interface Row { n: Namespace; name: string; group: string; pods: number; bad: number; workloads: number; well: number; cpu: number | null; memory: number | null; requests: number; fullest?: ReturnType<typeof usage>[number] }

const faint = (v: string | number) => <span class="faint">{v}</span>

const columnsOf = (cpuMax: number | null, memoryMax: number | null): Column<Row>[] => [
  { key: 'name', title: 'Name', by: r => r.name, cell: r => <Name object={r.name} to={pathTo('namespaces', r.name)} /> },
  { key: 'state', title: 'State', by: r => -r.bad, cell: r => r.n.metadata.deletionTimestamp ? <Status health="busy">Terminating</Status> : r.bad ? <Status health="bad">{plural(r.bad, 'pod')} failing</Status> : r.pods ? <Status health="ok">Healthy</Status> : <Status health="idle">Empty</Status> },
  { key: 'workloads', title: 'Workloads', right: true, by: r => r.workloads, cell: r => r.workloads ? <span class={r.well < r.workloads ? 'warning' : ''}>{r.well}/{r.workloads}</span> : faint(0) },
  { key: 'pods', title: 'Pods', right: true, by: r => r.pods, cell: r => r.pods || faint(0) },
  { key: 'requests', title: 'Requests', right: true, wide: true, by: r => r.requests, cell: r => r.requests > 0 ? rate(r.requests) : faint('–') },
  { key: 'cpu', title: 'CPU', wide: true, by: r => -(r.cpu ?? -1), cell: r => r.cpu === null ? faint('–') : <span class="bar"><span>{cores(r.cpu)}</span><Meter label={`Processor of ${r.name}, of the machine's`} value={r.cpu} max={cpuMax} /></span> },
  { key: 'memory', title: 'Memory', wide: true, by: r => -(r.memory ?? -1), cell: r => r.memory === null ? faint('–') : <span class="bar"><span>{bytes(r.memory)}</span><Meter label={`Memory of ${r.name}, of the machine's`} value={r.memory} max={memoryMax} /></span> },
  { key: 'quota', title: 'Fullest quota', wide: true, by: r => -(r.fullest?.part ?? -1), cell: r => r.fullest ? <span title={`${inWords(r.fullest.what)}: ${r.fullest.used} of ${r.fullest.hard}`} class={r.fullest.part > 0.9 ? 'critical' : ''}>{percent(r.fullest.part)} <span class="faint">{inWords(r.fullest.what)}</span></span> : faint('–') },
  { key: 'age', title: 'Age', right: true, by: r => -Date.parse(r.n.metadata.creationTimestamp), cell: r => <Age at={r.n.metadata.creationTimestamp} /> },
]

export default function Namespaces() {
  const namespaces = useKind<Namespace>('namespaces', ''), pods = useKind<Pod>('pods', ''), quotas = useKind<Quota>('resourcequotas', ''), nodes = useKind<Node>('nodes', ''), workloads = useWorkloads('')
  const cpu = useQuery('sum by (namespace) (rate(container_cpu_usage_seconds_total[1m]))'), memory = useQuery('sum by (namespace) (container_memory_working_set_bytes)')
  const requests = useQuery('sum by (of) (label_replace(rate(gantry_gateway_requests_total[1m]), "of", "$1", "route", "[^/]+/([^/]+)/.*"))')
  const anyTenant = namespaces.items.some(tenantOf)
  const rows = useMemo<Row[]>(() => {
    const of = (q: typeof cpu, label = 'namespace') => new Map((q.value ?? []).map(s => [s.metric[label], s.value]))
    const c = of(cpu), m = of(memory), r = of(requests, 'of')
    return namespaces.items.map(n => {
      const name = n.metadata.name, mine = pods.items.filter(p => p.metadata.namespace === name && p.status.phase !== 'Succeeded'), ws = workloads.items.filter(w => w.namespace === name && w.kind !== 'CronJob' && !(w.kind === 'Job' && w.health === 'idle'))
      return {
        n, name, group: groupOf(n, anyTenant), pods: mine.length, bad: mine.filter(p => podSays(p).health === 'bad').length, workloads: ws.length, well: ws.filter(w => w.health === 'ok' || w.health === 'idle').length,
        cpu: c.get(name) ?? null, memory: m.get(name) ?? null, requests: r.get(name) ?? 0, fullest: usage(quotas.items.filter(q => q.metadata.namespace === name))[0],
      }
    })
  }, [namespaces.items, pods.items, quotas.items, workloads.items, cpu.value, memory.value, requests.value])
  const sum = (of: (n: Node) => string | undefined) => nodes.items.length ? nodes.items.reduce((s, n) => s + (quantity(of(n)) || 0), 0) : null
  const cpuMax = sum(n => n.status.allocatable?.cpu), memoryMax = sum(n => n.status.allocatable?.memory)
  const columns = useMemo(() => columnsOf(cpuMax, memoryMax), [cpuMax, memoryMax])
  return <>
    <PageHead title="Namespaces" says={<span class="faint">{anyTenant ? 'By tenant: the label gantry.dev/tenant of a namespace.' : 'A namespace holds an application; the label gantry.dev/tenant says whose it is.'}</span>} />
    <Trouble of={[namespaces]} />
    <Table label="Namespaces" rows={rows} columns={columns} id={r => r.n.metadata.uid} loading={namespaces.state === 'loading'} text={r => `${r.name} ${r.group}`} group={r => r.group} groups={compareGroups} empty={<Empty icon="namespaces" title="None" />} />
  </>
}
