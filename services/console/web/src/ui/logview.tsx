// Lines of a container's log: filtered, followed, shown as text and nothing else.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { follow, type LogLine } from '../logs'
import { Empty } from './parts'
import { Icon } from './icons'
import { LineText, toneOf } from './line'

const kept = 5000, drawn = 1500

/** What the API says when a container has no log because it never ran. */
const neverRan = /no such file or directory|is waiting to start|not found$/

export function LogView({ namespace, pod, containers, ended, restarted }: { namespace: string; pod: string; containers: string[]; ended: boolean; restarted: boolean }) {
  const [container, setContainer] = useState(containers[0] ?? '')
  const [previous, setPrevious] = useState(false)
  const [lines, setLines] = useState<LogLine[]>([])
  const [error, setError] = useState('')
  const [text, setText] = useState('')
  const [times, setTimes] = useState(false), [raw, setRaw] = useState(false)
  const [stuck, setStuck] = useState(true)
  const box = useRef<HTMLDivElement>(null)
  const name = containers.includes(container) ? container : containers[0]

  useEffect(() => {
    if (!name) return
    const stop = new AbortController()
    let waiting: LogLine[] = [], timer = 0
    setLines([])
    setError('')
    const draw = () => { timer = 0; const some = waiting; waiting = []; setLines(was => [...was, ...some].slice(-kept)) }
    const run = async () => {
      for (let tail = 1000; !stop.signal.aborted; tail = 0) {
        try {
          await follow({ namespace, pod, container: name, previous, tail }, stop.signal, some => { setError(''); waiting.push(...some); timer ||= window.setTimeout(draw, 80) })
          if (previous || ended) return
        } catch (e) {
          if (stop.signal.aborted) return
          setError(e instanceof Error ? e.message : String(e))
          if (previous) return
        }
        await new Promise(r => setTimeout(r, 2000)) // the container has ended: what comes after it?
      }
    }
    void run()
    return () => { stop.abort(); clearTimeout(timer) }
  }, [namespace, pod, name, previous, ended])

  const shown = useMemo(() => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean)
    const fitting = words.length ? lines.filter(l => { const t = l.text.toLowerCase(); return words.every(w => t.includes(w)) }) : lines
    return fitting.slice(-drawn)
  }, [lines, text])
  useEffect(() => { if (stuck && box.current) box.current.scrollTop = box.current.scrollHeight }, [shown, stuck])

  return <div class="log">
    <div class="tools">
      {containers.length > 1 && <select aria-label="Container" value={name} onChange={e => setContainer(e.currentTarget.value)}>{containers.map(c => <option key={c}>{c}</option>)}</select>}
      <label class="filter"><Icon name="search" /><span class="hidden">Filter lines</span><input type="search" placeholder="Filter lines" value={text} onInput={e => setText(e.currentTarget.value)} /></label>
      <label class="check"><input type="checkbox" checked={times} onChange={e => setTimes(e.currentTarget.checked)} />Times</label>
      {lines.at(-1)?.text.startsWith('{') && <label class="check"><input type="checkbox" checked={raw} onChange={e => setRaw(e.currentTarget.checked)} />As written</label>}
      {restarted && <label class="check"><input type="checkbox" checked={previous} onChange={e => setPrevious(e.currentTarget.checked)} />Before the restart</label>}
      <span class="faint tally">{shown.length}{shown.length < lines.length && ` of ${lines.length}`}</span>
      {!stuck && <button type="button" onClick={() => setStuck(true)}>Follow</button>}
    </div>
    {error && lines.length === 0 ? neverRan.test(error) ? <Empty icon="logs" title="Nothing was written">The container has not run yet, or could not be started: its state says why.</Empty> : <Empty icon="logs" title="No log">{error}</Empty>
      : lines.length === 0 ? <Empty icon="logs" title="Nothing was written yet" />
      : <div class="lines" ref={box} role="log" aria-label={`Log of ${pod}`} tabIndex={0}
          onScroll={e => { const b = e.currentTarget; setStuck(b.scrollHeight - b.scrollTop - b.clientHeight < 30) }}>
        {shown.map((l, i) => <div key={lines.length - shown.length + i} class={toneOf(l.text)}>{times && <time>{l.at.slice(11, 23)} </time>}<LineText text={l.text} raw={raw} /></div>)}
      </div>}
  </div>
}
