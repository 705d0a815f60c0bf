// Charts of what the Prometheus API answers, with marks for deploys.

import uPlot from 'uplot'
import 'uplot/dist/uPlot.min.css'
import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { queryRange, usePolled, type Series } from '../prom'
import { units, type Unit } from '../format'
import { Empty, Trend } from './parts'

export interface Mark { at: number; label: string } // milliseconds
export interface Line {
  expr: string
  /** The name of a line: text, or of its labels. */
  name: string | ((labels: Record<string, string>) => string)
  /** ok, warn, bad or a number of the palette. */
  tone?: 'bad' | 'warn' | 'faint'
  /** A line that bounds others, such as a limit. */
  limit?: boolean
}

interface Props {
  title: string
  lines: Line[]
  unit: Unit
  /** Minutes shown, up to now. */
  minutes?: number
  marks?: Mark[]
  every?: number
  stacked?: boolean
  /** How many lines at most; the greatest stay. */
  most?: number
  height?: number
  empty?: string
}

interface Drawn { name: string; tone?: Line['tone']; limit?: boolean; values: (number | null)[]; last: number | null }
interface Data { times: number[]; lines: Drawn[] }

/** Puts the answers on one grid of times. Where there is no value there is a gap. */
export function onGrid(found: { line: Line; series: Series[] }[], start: number, end: number, step: number, most: number): Data {
  const times: number[] = []
  for (let t = start; t <= end + 1e-6; t += step) times.push(Math.round(t * 1000) / 1000)
  const lines: Drawn[] = []
  for (const { line, series } of found) for (const s of series) {
    const values: (number | null)[] = times.map(() => null)
    for (const [t, v] of s.values) {
      const i = Math.round((t - start) / step)
      if (i >= 0 && i < values.length && isFinite(v)) values[i] = v
    }
    lines.push({ name: typeof line.name === 'function' ? line.name(s.metric) : line.name, tone: line.tone, limit: line.limit, values, last: values.at(-1) ?? values.at(-2) ?? null })
  }
  // What is younger than the span has a shorter one, of some minutes at least.
  const first = Math.min(...lines.filter(l => !l.limit).map(l => l.values.findIndex(v => v !== null)).filter(i => i >= 0), times.length)
  const cut = Math.max(0, Math.min(first - Math.ceil(leastSpan / step / 5), times.length - 1 - Math.ceil(leastSpan / step)))
  if (cut > 0) {
    times.splice(0, cut)
    for (const l of lines) l.values.splice(0, cut)
  }
  const top = (l: Drawn) => l.limit ? Infinity : l.values.reduce<number>((a, v) => a + (v ?? 0), 0)
  return { times, lines: lines.length > most ? lines.sort((a, b) => top(b) - top(a)).slice(0, most) : lines }
}

/** A small line without axes, beside a figure that says the same. */
export function Spark({ expr, minutes = 30, tone = '' }: { expr: string; minutes?: number; tone?: 'bad' | '' }) {
  const step = minutes * 60 / 40
  const { value } = usePolled(async signal => {
    const end = Math.floor(Date.now() / 1000 / step) * step
    return onGrid([{ line: { expr, name: '' }, series: (await queryRange(expr, end - minutes * 60, end, step, signal)).slice(0, 1) }], end - minutes * 60, end, step, 1)
  }, 20, [expr, minutes])
  return <Trend values={value?.lines[0]?.values ?? []} tone={tone} />
}

const palette = 6
const leastSpan = 300 // seconds

function css(name: string): string { return getComputedStyle(document.documentElement).getPropertyValue(name).trim() }

const color = (l: Drawn, i: number) => css(l.limit || l.tone === 'faint' ? '--faint' : l.tone === 'bad' ? '--bad' : l.tone === 'warn' ? '--warn' : `--line-${i % palette + 1}`)

export function Chart({ title, lines, unit, minutes = 60, marks = [], every = 10, stacked = false, most = 8, height = 150, empty = 'No samples yet.' }: Props) {
  const step = Math.max(5, Math.ceil(minutes * 60 / 240 / 5) * 5)
  const exprs = lines.map(l => l.expr).join('\n')
  const polled = usePolled(async signal => {
    const end = Math.floor(Date.now() / 1000 / step) * step, start = end - minutes * 60
    return onGrid(await Promise.all(lines.map(async line => ({ line, series: await queryRange(line.expr, start, end, step, signal) }))), start, end, step, most)
  }, every, [exprs, minutes])
  const [at, setAt] = useState<number | null>(null)
  const data = polled.value
  const has = data !== null && data.lines.some(l => !l.limit && l.values.some(v => v !== null))
  return <figure class="chart">
    <figcaption><span>{title}</span></figcaption>
    {has ? <Plot data={data} unit={unit} marks={marks} stacked={stacked} height={height} title={title} onCursor={setAt} />
      : <div class="no-plot" data-height={height}>{polled.error ? <Empty title={/forbidden/i.test(polled.error) ? 'You may not see metrics: that needs the role gantry-metrics-reader.' : polled.error} /> : data ? <Empty title={empty} /> : null}</div>}
    {has && <Legend data={data} unit={unit} at={at} />}
  </figure>
}

function Legend({ data, unit, at }: { data: Data; unit: Unit; at: number | null }) {
  return <ul class="legend">
    {data.lines.map((l, i) => <li key={i} class={l.limit || l.tone === 'faint' ? 'tone-faint' : l.tone ? `tone-${l.tone}` : `line-${i % palette + 1}`}>
      <i aria-hidden="true" /><span>{l.name}</span><b>{units[unit](at === null ? l.last : l.values[at])}</b>
    </li>)}
    {at !== null && <li class="when">{new Date(data.times[at] * 1000).toLocaleTimeString([], { hour12: false })}</li>}
  </ul>
}

interface PlotProps { data: Data; unit: Unit; marks: Mark[]; stacked: boolean; height: number; title: string; onCursor: (i: number | null) => void }

function Plot({ data, unit, marks, stacked, height, title, onCursor }: PlotProps) {
  const box = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot | null>(null)
  const drawnMarks = useRef(marks)
  drawnMarks.current = marks
  const [themed, setThemed] = useState(0)
  const shape = data.lines.map(l => l.name + l.tone + l.limit).join('\n')
  const columns = useMemo(() => asColumns(data, stacked), [data, stacked])

  useEffect(() => {
    const again = () => setThemed(n => n + 1)
    addEventListener('themechange', again)
    return () => removeEventListener('themechange', again)
  }, [])
  useEffect(() => {
    const at = box.current!
    const font = '11px ' + css('--font')
    const axis = { stroke: css('--faint'), font, grid: { stroke: css('--line'), width: 1 }, ticks: { show: false } }
    const u = new uPlot({
      width: at.clientWidth, height, legend: { show: false }, padding: [8, 16, 0, 0],
      cursor: { y: false, points: { size: 6 }, sync: { key: 'gantry' }, drag: { setScale: false } },
      scales: { y: { range: (_u, min, max) => [Math.min(0, min), max > 0 ? max * 1.08 : 1] } },
      axes: [{ ...axis, size: 24, space: 70, values: (_u, ticks) => ticks.map(clock) }, { ...axis, size: 58, gap: 6, space: 34, incrs: unit.startsWith('bytes') ? powersOfTwo : undefined, values: (_u, ticks) => ticks.map(v => units[unit](v)) }],
      series: [{}, ...data.lines.map((l, i) => ({
        stroke: color(l, i), width: l.limit ? 1 : 1.5, dash: l.limit ? [4, 4] : undefined, points: { show: false }, spanGaps: false,
        fill: l.limit || (!stacked && data.lines.length > 1) ? undefined : color(l, i) + (stacked ? '66' : '1f'),
      }))],
      // Of what is stacked, each fill reaches down to the line below it and no further.
      bands: stacked ? data.lines.flatMap((l, i) => i > 0 && !l.limit ? [{ series: [i + 1, i] as [number, number] }] : []) : undefined,
      hooks: {
        setCursor: [u => onCursor(u.cursor.idx ?? null)],
        draw: [u => drawMarks(u, drawnMarks.current)],
      },
    }, columns, at)
    plot.current = u
    const sized = new ResizeObserver(() => u.setSize({ width: at.clientWidth, height }))
    sized.observe(at)
    return () => { sized.disconnect(); u.destroy(); plot.current = null }
  }, [shape, unit, stacked, height, themed])
  useEffect(() => { plot.current?.setData(columns) }, [columns, marks.length])
  const words = data.lines.map(l => `${l.name}: ${units[unit](l.last)}`).join(', ')
  return <div ref={box} class="plot" role="img" aria-label={`${title}. Now ${words}.`} data-height={height} />
}

const powersOfTwo = Array.from({ length: 50 }, (_, i) => 2 ** i)
const clock = (t: number) => new Date(t * 1000).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', hour12: false })

function asColumns(data: Data, stacked: boolean): uPlot.AlignedData {
  if (!stacked) return [data.times, ...data.lines.map(l => l.values)]
  // What is not there adds nothing, as long as something is: a fill reaches down to the line below it.
  const sum = data.times.map(() => 0), some = data.times.map((_, i) => data.lines.some(l => !l.limit && l.values[i] !== null))
  return [data.times, ...data.lines.map(l => l.limit ? l.values : l.values.map((v, i) => some[i] ? sum[i] += v ?? 0 : null))]
}

function drawMarks(u: uPlot, marks: Mark[]) {
  const { left, top, width, height } = u.bbox, c = u.ctx
  c.save()
  c.strokeStyle = c.fillStyle = css('--accent')
  c.lineWidth = devicePixelRatio
  c.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio])
  for (const m of marks) {
    const x = u.valToPos(m.at / 1000, 'x', true)
    if (x < left || x > left + width) continue
    c.beginPath(); c.moveTo(x, top); c.lineTo(x, top + height); c.stroke()
    c.beginPath(); c.moveTo(x - 4 * devicePixelRatio, top); c.lineTo(x + 4 * devicePixelRatio, top); c.lineTo(x, top + 6 * devicePixelRatio); c.fill()
  }
  c.restore()
}
