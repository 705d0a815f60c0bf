// The graph of any expression, as alerts link to it.

import { useEffect, useState } from 'preact/hooks'
import { choose, usePlace } from '../router'
import { useQuery } from '../prom'
import { count } from '../format'
import { Empty, PageHead, Panel } from '../ui/parts'
import { Chart } from '../ui/chart'
import { Table, type Column } from '../ui/table'
import type { Sample } from '../prom'
import '../style/graph.css'

const spans: [number, string][] = [[15, '15 minutes'], [60, '1 hour'], [360, '6 hours'], [1440, '1 day'], [10080, '7 days']]

const nameOf = (m: Record<string, string>) => {
  const { __name__: metric = '', ...labels } = m, text = Object.entries(labels).map(([k, v]) => `${k}="${v}"`).join(', ')
  return text ? `${metric}{${text}}` : metric || 'value'
}

export default function GraphPage() {
  const { query } = usePlace(), expr = query.get('expr') ?? '', minutes = Number(query.get('minutes')) || 60
  const [text, set] = useState(expr)
  useEffect(() => set(expr), [expr])
  return <>
    <PageHead title="Graph" says="Any expression in PromQL." />
    <form class="ask" onSubmit={e => { e.preventDefault(); choose('expr', text.trim()) }}>
      <label class="grow"><span class="hidden">Expression</span><textarea rows={Math.min(6, 1 + Math.floor(text.length / 90))} spellcheck={false} class="mono" placeholder="sum by (namespace) (rate(container_cpu_usage_seconds_total[5m]))" value={text} onInput={e => set(e.currentTarget.value)}
        onKeyDown={e => { if (e.key === 'Enter' && !e.shiftKey) { e.preventDefault(); choose('expr', text.trim()) } }} /></label>
      <label><span class="hidden">Time</span><select value={String(minutes)} onChange={e => choose('minutes', e.currentTarget.value)}>{spans.map(([m, name]) => <option key={m} value={m}>{name}</option>)}</select></label>
      <button type="submit" class="primary">Show</button>
    </form>
    {expr ? <><Chart key={expr + minutes} title={expr} unit={unitOf(expr)} minutes={minutes} height={260} most={20} lines={[{ expr, name: nameOf }]} /><Now expr={expr} /></>
      : <Panel><Empty icon="graph" title="Nothing is asked for">Type an expression and press Enter. The metrics are those of cAdvisor, node_exporter, kube-state-metrics and the gateway.</Empty></Panel>}
  </>
}

/** What a figure means, by the name of its metric. */
const unitOf = (expr: string) => /_bytes(_total)?\b/.test(expr) ? /rate\(/.test(expr) ? 'bytesPerSecond' : 'bytes' : /_cpu_usage_seconds/.test(expr) ? 'cores' : /duration_seconds_bucket|_seconds\b(?!_total)/.test(expr) && !/timestamp/.test(expr) ? 'seconds' : 'count'

const columns: Column<Sample>[] = [
  { key: 'labels', title: 'Labels', cell: s => <span class="mono">{nameOf(s.metric)}</span>, by: s => nameOf(s.metric) },
  { key: 'value', title: 'Now', cell: s => <span title={String(s.value)}>{count(s.value)}</span>, by: s => s.value, right: true },
]

function Now({ expr }: { expr: string }) {
  const { value, error } = useQuery(expr)
  if (error) return <p class="notice" role="alert">{error}</p>
  return <Table label="Values" rows={value ?? []} columns={columns} id={s => nameOf(s.metric)} sort="-value" text={s => nameOf(s.metric)} loading={value === null} empty={<Empty icon="graph" title="No series fits" />} />
}
