import { useMemo } from 'preact/hooks'
import { pathTo } from '../router'
import { useNamespace } from '../kube/paths'
import { usePods } from '../lists'
import { ownerOf, podSays } from '../workloads'
import { bytes, cores } from '../format'
import { quote, useQuery } from '../prom'
import type { Pod } from '../kube/types'
import { Age, Empty, Name, PageHead, Status, Trouble } from '../ui/parts'
import { Table, type Column } from '../ui/table'

const worst = { bad: 0, busy: 1, ok: 2, idle: 3 }

export default function Pods() {
  const namespace = useNamespace()
  const { pods, byUID } = usePods()
  return <>
    <PageHead title="Pods" />
    <Trouble of={[pods]} />
    <PodTable pods={pods.items} byUID={byUID} namespace={namespace} loading={pods.state === 'loading'}
      empty={<Empty icon="pods" title={namespace ? `No pods in ${namespace}` : 'No pods yet'} />} />
  </>
}

export function PodTable({ pods, byUID, namespace, loading, empty, plain }: {
  pods: Pod[]; byUID: ReturnType<typeof usePods>['byUID']; namespace: string; loading: boolean; empty: preact.ComponentChildren; plain?: boolean
}) {
  const where = namespace ? `{namespace=${quote(namespace)}}` : ''
  const cpu = useQuery(`sum by (namespace, pod) (rate(container_cpu_usage_seconds_total${where}[1m]))`), memory = useQuery(`sum by (namespace, pod) (container_memory_working_set_bytes${where})`)
  const columns = useMemo<Column<Pod>[]>(() => {
    const table = (all: typeof cpu.value) => new Map((all ?? []).map(s => [`${s.metric.namespace}/${s.metric.pod}`, s.value]))
    const c = table(cpu.value), m = table(memory.value), key = (p: Pod) => `${p.metadata.namespace}/${p.metadata.name}`
    const all: (Column<Pod> | false)[] = [
      { key: 'name', title: 'Name', by: key, cell: p => <Name object={plain ? p.metadata.name : key(p)} to={pathTo('pods', p.metadata.namespace!, p.metadata.name)} /> },
      { key: 'state', title: 'State', by: p => worst[podSays(p).health] + podSays(p).says, cell: p => { const s = podSays(p); return <span title={s.why}><Status health={s.health}>{s.says}</Status></span> } },
      { key: 'ready', title: 'Ready', right: true, wide: true, by: p => podSays(p).ready, cell: p => { const s = podSays(p); return `${s.ready}/${s.total}` } },
      { key: 'restarts', title: 'Restarts', right: true, by: p => podSays(p).restarts, cell: p => podSays(p).restarts || <span class="faint">0</span> },
      !plain && { key: 'owner', title: 'Workload', wide: true, by: p => ownerOf(p, byUID)?.name ?? '', cell: p => <span class="faint">{ownerOf(p, byUID)?.name ?? '–'}</span> },
      { key: 'cpu', title: 'CPU', right: true, wide: true, by: p => c.get(key(p)) ?? -1, cell: p => cores(c.get(key(p))) },
      { key: 'memory', title: 'Memory', right: true, wide: true, by: p => m.get(key(p)) ?? -1, cell: p => bytes(m.get(key(p))) },
      { key: 'address', title: 'Address', wide: true, by: p => p.status.podIP ?? '', cell: p => <span class="faint mono">{p.status.podIP ?? '–'}</span> },
      { key: 'age', title: 'Age', right: true, by: p => -Date.parse(p.metadata.creationTimestamp), cell: p => <Age at={p.metadata.creationTimestamp} /> },
    ]
    return all.filter(c => c !== false)
  }, [cpu.value, memory.value, byUID, plain])
  return <Table label="Pods" rows={pods} columns={columns} id={p => p.metadata.uid} loading={loading} sort={plain ? undefined : 'state'}
    text={plain ? undefined : p => `${p.metadata.namespace}/${p.metadata.name} ${podSays(p).says} ${ownerOf(p, byUID)?.name ?? ''} ${p.status.podIP ?? ''}`} empty={empty} />
}
