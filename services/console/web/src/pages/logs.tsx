// Search in the logs of all containers, also of those that are gone.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { choose, Link, pathTo, usePlace } from '../router'
import { useNamespace } from '../kube/paths'
import { histogram, lines, selector, values, type Bar, type Line } from '../loki'
import { usePolled } from '../prom'
import { count } from '../format'
import { Empty, PageHead } from '../ui/parts'
import { Icon } from '../ui/icons'
import { LineText, toneOf } from '../ui/line'
import '../style/logs.css'

const spans: Record<string, [string, number]> = { '15': ['15 minutes', 15], '60': ['1 hour', 60], '360': ['6 hours', 360], '1440': ['1 day', 1440], '10080': ['7 days', 10080] }
const most = 1000, everyLive = 2000

export default function LogsPage() {
  const { query } = usePlace(), looked = useNamespace()
  const get = (name: string) => query.get(name) ?? ''
  const wanted = { namespace: looked, app: get('app'), pod: get('pod'), container: get('container'), level: get('level'), text: get('text') }
  const expr = selector(wanted), minutes = spans[get('minutes')]?.[1] ?? 60, at = Number(get('at')) || 0
  const [live, setLive] = useState(true)
  const following = live && !at
  const found = useLines(expr, minutes, at, following)
  const bars = usePolled<Bar[]>(signal => { const [from, to] = between(minutes, at); return histogram(expr, from, to, 60, signal) }, following ? 10 : 3600, [expr, minutes, at])
  const apps = usePolled<string[]>(signal => values('app', `{${wanted.namespace ? `namespace=${JSON.stringify(wanted.namespace)}` : 'namespace=~".+"'}}`, signal), 60, [wanted.namespace])
  return <>
    <PageHead title="Logs" says="Of all containers, also of those that are gone." >
      <button type="button" aria-pressed={following} onClick={() => { choose('at', ''); setLive(!following) }}><Icon name={following ? 'dot' : 'restart'} /> {following ? 'Following' : 'Follow'}</button>
    </PageHead>
    <form class="log-search" role="search" onSubmit={e => e.preventDefault()}>
      <Typed name="text" label="Words in the line" value={wanted.text} wide />
      <label><span>App</span><select value={wanted.app} onChange={e => choose('app', e.currentTarget.value)}><option value="">All</option>
        {[...new Set([...(apps.value ?? []), ...(wanted.app ? [wanted.app] : [])])].sort().map(a => <option key={a}>{a}</option>)}</select></label>
      <Typed name="pod" label="Pod" value={wanted.pod} />
      <label><span>Level</span><select value={wanted.level} onChange={e => choose('level', e.currentTarget.value)}><option value="">All</option>{['error', 'warn', 'info', 'debug'].map(l => <option key={l}>{l}</option>)}</select></label>
      <label><span>Time</span><select value={String(minutes)} onChange={e => choose('minutes', e.currentTarget.value)}>{Object.entries(spans).map(([v, [name]]) => <option key={v} value={v}>{name}</option>)}</select></label>
      <label class="check"><input type="checkbox" checked={get('raw') === 'yes'} onChange={e => choose('raw', e.currentTarget.checked ? 'yes' : '')} />As written</label>
    </form>
    <Histogram bars={bars.value} onPick={t => choose('at', String(Math.round(t)))} at={at} />
    <Found {...found} showPod={!wanted.pod} stick={following} raw={get('raw') === 'yes'} />
  </>
}

/** A choice by typing, which is taken after a moment. */
function Typed({ name, label, value, wide }: { name: string; label: string; value: string; wide?: boolean }) {
  const [text, set] = useState(value)
  useEffect(() => set(value), [value])
  useEffect(() => {
    if (text === value) return
    const t = setTimeout(() => choose(name, text), 300)
    return () => clearTimeout(t)
  }, [text])
  return <label class={wide ? 'wide-input' : ''}><span>{label}</span><input type="search" value={text} spellcheck={false} autocomplete="off" onInput={e => set(e.currentTarget.value)} /></label>
}

/** The time that is looked at: up to now, or around a moment. */
const between = (minutes: number, at: number): [number, number] => at ? [at - minutes * 30_000, at + minutes * 30_000] : [Date.now() - minutes * 60_000, Date.now()]

interface FoundLines { list: Line[] | null; error: string; cut: boolean }

function useLines(query: string, minutes: number, at: number, following: boolean): FoundLines {
  const [found, set] = useState<FoundLines>({ list: null, error: '', cut: false })
  useEffect(() => {
    const stop = new AbortController()
    let timer = 0, last = 0
    const run = async () => {
      try {
        const [from, to] = between(minutes, at), again = last > 0
        // A little twice, because lines arrive a moment after they were written.
        const some = document.hidden && again ? [] : await lines(query, again ? last - 3000 : from, to, most, stop.signal)
        if (stop.signal.aborted) return
        if (!again || some.length) set(was => {
          const have = again ? was.list ?? [] : [], seen = new Set(have.slice(-most).map(l => l.key))
          const list = [...have, ...some.filter(l => !seen.has(l.key))].sort((a, b) => a.at - b.at)
          return { list: list.slice(-most), error: '', cut: was.cut || some.length >= most || list.length > most }
        })
        last = Math.max(last, some.at(-1)?.at ?? (last || to - 3000))
      } catch (e) {
        if (stop.signal.aborted) return
        set(was => ({ ...was, error: e instanceof Error ? e.message : String(e) }))
      }
      if (following) timer = window.setTimeout(run, everyLive)
    }
    set({ list: null, error: '', cut: false })
    void run()
    return () => { stop.abort(); clearTimeout(timer) }
  }, [query, minutes, at, following])
  return found
}

function Histogram({ bars, at, onPick }: { bars: Bar[] | null; at: number; onPick: (t: number) => void }) {
  if (!bars?.length) return null
  const top = Math.max(...bars.map(b => b.lines), 1), step = bars.length > 1 ? bars[1].at - bars[0].at : 1000, total = bars.reduce((n, b) => n + b.lines, 0), bad = bars.reduce((n, b) => n + b.bad, 0)
  const first = bars[0].at, slots = Math.max(60, Math.round((bars.at(-1)!.at - first) / step) + 1)
  return <figure class="panel histogram">
    <figcaption><span>{count(total)} lines</span>{bad > 0 && <span class="critical">{count(bad)} errors</span>}{at > 0 && <button type="button" onClick={() => choose('at', '')}>Back to now</button>}</figcaption>
    <svg viewBox={`0 0 ${slots} 40`} preserveAspectRatio="none" role="img" aria-label={`${total} lines, ${bad} of them errors, over the time that is searched`}
      onClick={e => { const r = e.currentTarget.getBoundingClientRect(); onPick(first + (e.clientX - r.left) / r.width * slots * step) }}>
      {bars.map(b => { const x = Math.round((b.at - first) / step), h = b.lines / top * 38, hb = b.bad / top * 38
        return <g key={b.at}><rect x={x + 0.1} y={40 - h} width="0.8" height={h} /><rect class="bad" x={x + 0.1} y={40 - hb} width="0.8" height={hb} /></g> })}
    </svg>
  </figure>
}

function Found({ list, error, cut, showPod, stick, raw }: FoundLines & { showPod: boolean; stick: boolean; raw: boolean }) {
  const box = useRef<HTMLDivElement>(null)
  const [atEnd, setAtEnd] = useState(true)
  useEffect(() => { if (stick && atEnd && box.current) box.current.scrollTop = box.current.scrollHeight }, [list, stick, atEnd])
  const rows = useMemo(() => list?.map(l => <LogRow key={l.key} l={l} showPod={showPod} raw={raw} />), [list, showPod, raw])
  return <section class="panel log found" aria-label="Lines">
    {error && <p class="notice" role="alert">{error}</p>}
    {list === null && !error && <div class="skeleton" aria-hidden="true"><i /><i /><i /></div>}
    {list?.length === 0 && <Empty icon="logs" title="No line fits">Look at a longer time, or at fewer words.</Empty>}
    {cut && <p class="faint cut">The latest {most} lines are shown: narrow the search to see others.</p>}
    {list && list.length > 0 && <div class="lines" ref={box} role="log" aria-live="off" tabIndex={0} aria-label="Lines found" onScroll={e => { const b = e.currentTarget; setAtEnd(b.scrollHeight - b.scrollTop - b.clientHeight < 30) }}>{rows}</div>}
  </section>
}

function LogRow({ l, showPod, raw }: { l: Line; showPod: boolean; raw: boolean }) {
  const d = new Date(l.at), { namespace = '', pod = '' } = l.labels
  return <div class={toneOf(l.text, l.level)}><time title={d.toLocaleString()}>{d.toLocaleTimeString([], { hour12: false })}.{String(d.getMilliseconds()).padStart(3, '0')} </time>
    {showPod && <Link class="of" to={pathTo('pods', namespace, pod)} title={`${namespace}/${pod}`}>{l.labels.app || pod}</Link>} <LineText text={l.text} raw={raw} /></div>
}
