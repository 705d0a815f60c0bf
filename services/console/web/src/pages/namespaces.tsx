import { useMemo } from 'preact/hooks'
import { pathTo } from '../router'
import { useKind } from '../kube/paths'
import type { Namespace, Pod } from '../kube/types'
import { podSays } from '../workloads'
import { bytes, cores } from '../format'
import { useQuery } from '../prom'
import { Age, Empty, Name, PageHead, Status, Trouble } from '../ui/parts'
import { Table, type Column } from '../ui/table'

export default function Namespaces() {
  const namespaces = useKind<Namespace>('namespaces', ''), pods = useKind<Pod>('pods', '')
  const cpu = useQuery('sum by (namespace) (rate(container_cpu_usage_seconds_total[1m]))'), memory = useQuery('sum by (namespace) (container_memory_working_set_bytes)')
  const columns = useMemo<Column<Namespace>[]>(() => {
    const table = (q: typeof cpu) => new Map((q.value ?? []).map(s => [s.metric.namespace, s.value]))
    const c = table(cpu), m = table(memory), count = new Map<string, { all: number; bad: number }>()
    for (const p of pods.items) {
      const n = p.metadata.namespace!, have = count.get(n) ?? { all: 0, bad: 0 }
      count.set(n, { all: have.all + 1, bad: have.bad + (podSays(p).health === 'bad' ? 1 : 0) })
    }
    return [
      { key: 'name', title: 'Name', by: n => n.metadata.name, cell: n => <Name object={n.metadata.name} to={pathTo('namespaces', n.metadata.name)} /> },
      { key: 'state', title: 'State', by: n => -(count.get(n.metadata.name)?.bad ?? 0), cell: n => {
        const bad = count.get(n.metadata.name)?.bad ?? 0
        return n.metadata.deletionTimestamp ? <Status health="busy">Terminating</Status> : bad ? <Status health="bad">{bad} failing</Status> : count.get(n.metadata.name) ? <Status health="ok">Healthy</Status> : <Status health="idle">Empty</Status>
      } },
      { key: 'pods', title: 'Pods', right: true, by: n => count.get(n.metadata.name)?.all ?? 0, cell: n => count.get(n.metadata.name)?.all ?? <span class="faint">0</span> },
      { key: 'cpu', title: 'CPU', right: true, wide: true, by: n => c.get(n.metadata.name) ?? -1, cell: n => cores(c.get(n.metadata.name)) },
      { key: 'memory', title: 'Memory', right: true, wide: true, by: n => m.get(n.metadata.name) ?? -1, cell: n => bytes(m.get(n.metadata.name)) },
      { key: 'age', title: 'Age', right: true, by: n => -Date.parse(n.metadata.creationTimestamp), cell: n => <Age at={n.metadata.creationTimestamp} /> },
    ]
  }, [pods.items, cpu.value, memory.value])
  return <>
    <PageHead title="Namespaces" />
    <Trouble of={[namespaces]} />
    <Table label="Namespaces" rows={namespaces.items} columns={columns} id={n => n.metadata.uid} loading={namespaces.state === 'loading'} text={n => n.metadata.name} empty={<Empty icon="namespaces" title="None" />} />
  </>
}
