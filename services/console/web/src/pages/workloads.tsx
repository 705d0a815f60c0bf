import type { ComponentChildren } from 'preact'
import { useMemo } from 'preact/hooks'
import { pathTo } from '../router'
import { useNamespace } from '../kube/paths'
import { useWorkloads } from '../lists'
import { images, kindInPath, type Workload } from '../workloads'
import { imageName, bytes, cores } from '../format'
import { quote, trends, usePolled, useQuery } from '../prom'
import { Age, Empty, Name, PageHead, Status, Trend, Trouble } from '../ui/parts'
import { Table, type Column } from '../ui/table'

// Prefixes of pods' names are enough here: a workload's pods are named after it.
const podPattern = '^(.*?)(-[a-f0-9]{6,10})?-([a-z0-9]{5}|[0-9]+)$'

const usageOf = (metric: string, namespace: string) =>
  `sum by (namespace, workload) (label_replace(${metric.replace('{}', namespace ? `{namespace=${quote(namespace)}}` : '')}, "workload", "$1", "pod", ${quote(podPattern)}))`

const worst = { bad: 0, busy: 1, ok: 2, idle: 3 }

export default function Workloads() {
  const namespace = useNamespace()
  const { items, views, loading } = useWorkloads()
  return <>
    <PageHead title="Workloads" />
    <Trouble of={views} />
    <WorkloadTable items={items} namespace={namespace} loading={loading}
      empty={<Empty icon="workloads" title={namespace ? `Nothing runs in ${namespace}` : 'Nothing runs yet'}>Start with <code>gantry up PATH</code>, or <code>kubectl apply</code>.</Empty>} />
  </>
}

export function WorkloadTable({ items, namespace, loading, empty, plain }: { items: Workload[]; namespace: string; loading: boolean; empty: ComponentChildren; plain?: boolean }) {
  const cpu = useQuery(usageOf('rate(container_cpu_usage_seconds_total{}[1m])', namespace), 10), memory = useQuery(usageOf('container_memory_working_set_bytes{}', namespace), 10)
  const lines = usePolled(signal => trends(usageOf('rate(container_cpu_usage_seconds_total{}[2m])', namespace), 30, signal), 30, [namespace])
  const columns = useMemo<Column<Workload>[]>(() => {
    const l = new Map((lines.value ?? []).map(s => [`${s.metric.namespace}/${s.metric.workload}`, s.values]))
    const table = (all: typeof cpu.value) => new Map((all ?? []).map(s => [`${s.metric.namespace}/${s.metric.workload}`, s.value]))
    const c = table(cpu.value), m = table(memory.value), key = (w: Workload) => `${w.namespace}/${w.name}`
    return [
      { key: 'name', title: 'Name', by: w => `${w.namespace}/${w.name}`, cell: w => <Name object={plain ? w.name : `${w.namespace}/${w.name}`} to={pathTo('workloads', w.namespace, kindInPath(w.kind), w.name)} /> },
      { key: 'state', title: 'State', by: w => worst[w.health], cell: w => <span title={w.why}><Status health={w.health}>{w.says}</Status></span> },
      { key: 'ready', title: 'Ready', right: true, by: w => w.ready, cell: w => w.kind === 'CronJob' ? '' : `${w.ready}/${w.desired}` },
      { key: 'kind', title: 'Kind', wide: true, by: w => w.kind, cell: w => <span class="faint">{w.kind}</span> },
      { key: 'image', title: 'Image', wide: true, by: w => images(w.template)[0], cell: w => { const all = images(w.template), { name, tag } = imageName(all[0]); return <span title={all.join('\n')}>{name.split('/').at(-1)}<span class="faint">:{tag}{all.length > 1 && ` +${all.length - 1}`}</span></span> } },
      { key: 'cpu', title: 'CPU', right: true, wide: true, by: w => c.get(key(w)) ?? -1, cell: w => <span class="trend">{l.has(key(w)) && <Trend values={l.get(key(w))!} />}<span>{cores(c.get(key(w)))}</span></span> },
      { key: 'memory', title: 'Memory', right: true, wide: true, by: w => m.get(key(w)) ?? -1, cell: w => bytes(m.get(key(w))) },
      { key: 'age', title: 'Age', right: true, by: w => -Date.parse(w.metadata.creationTimestamp), cell: w => <Age at={w.metadata.creationTimestamp} /> },
    ]
  }, [cpu.value, memory.value, lines.value, plain])
  return <Table label="Workloads" rows={items} columns={columns} id={w => `${w.namespace}/${w.kind}/${w.name}`} loading={loading}
    text={plain ? undefined : w => `${w.namespace}/${w.name} ${w.kind} ${w.says} ${images(w.template).join(' ')}`} empty={empty} />
}
