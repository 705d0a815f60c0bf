// One alert: what is known, what to do first, the graph, the log and the last change.

import { useState } from 'preact/hooks'
import type { PageProps } from '../pages'
import { Link } from '../router'
import { session } from '../session'
import { useStore } from '../store'
import { usePolled } from '../prom'
import { alerts, healthOf, ownLink, silence, stateOf, type Alert } from '../alerting'
import { lines, selector, type Line } from '../loki'
import { Age, Empty, PageHead, Panel, Status } from '../ui/parts'
import { Chart } from '../ui/chart'
import { Confirm } from '../ui/dialog'
import { Icon } from '../ui/icons'
import { LineText, toneOf } from '../ui/line'
import '../style/logs.css'

export default function AlertPage({ params: { fingerprint } }: PageProps) {
  const [asking, ask] = useState(false)
  const polled = usePolled(signal => alerts(signal), 5, [fingerprint])
  const a = polled.value?.find(x => x.fingerprint === fingerprint)
  const above = <Link to="/alerts">Alerts</Link>
  if (!a) return <><PageHead title="Alert" above={above} />{polled.error ? <p class="notice" role="alert">{polled.error}</p>
    : polled.value ? <Panel><Empty icon="check" title="This alert no longer fires">It was resolved, or never was.</Empty></Panel> : <Panel><div class="skeleton" aria-hidden="true"><i /><i /></div></Panel>}</>
  const n = a.annotations, logs = ownLink(n.logs), change = ownLink(n.change), expr = exprOf(n.graph)
  return <>
    <PageHead title={n.summary || a.labels.alertname} above={<>{above} / {a.labels.alertname}</>} says={<><Status health={healthOf(a)}>{stateOf(a)}</Status> <span class="faint">for <Age at={a.startsAt} /></span></>}>
      <button type="button" onClick={() => ask(true)}>Silence…</button>
    </PageHead>
    <Panel title="What to do first">
      <div class="body"><p class="first anywhere">{n.first || 'Look at the graph, the log and the last change below.'}</p>{n.description && <p class="faint anywhere">{n.description}</p>}
        <p class="ways">{change && <Link to={change}><Icon name="deploy" /> Last change</Link>}{logs && <Link to={logs}><Icon name="logs" /> All of the log</Link>}{expr && <Link to={ownLink(n.graph)!}><Icon name="graph" /> The graph alone</Link>}</p></div>
    </Panel>
    {expr && <Chart title="What the rule looks at" unit="count" minutes={60} height={260} lines={[{ expr, name: l => l.pod ?? l.deployment ?? l.route ?? l.node ?? Object.values(l).at(-1) ?? 'value' }]} marks={[{ at: Date.parse(a.startsAt), label: 'fires' }]} />}
    {logs && <LogAround link={logs} at={Date.parse(a.startsAt)} />}
    <Panel title="Labels"><dl class="facts-list">{Object.entries(a.labels).map(([k, v]) => <div key={k}><dt>{k}</dt><dd class="anywhere"><bdi>{v}</bdi></dd></div>)}</dl></Panel>
    {asking && <Hush a={a} onClose={() => ask(false)} />}
  </>
}

const exprOf = (graph: string | undefined) => { const own = ownLink(graph); return own ? new URLSearchParams(own.split('?')[1]).get('expr') ?? undefined : undefined }

function LogAround({ link, at }: { link: string; at: number }) {
  const q = new URLSearchParams(link.split('?')[1]), get = (k: string) => q.get(k) ?? ''
  const expr = selector({ namespace: get('namespace'), app: get('app'), pod: get('pod'), container: get('container'), level: get('level'), text: get('text') })
  const { value, error } = usePolled<Line[]>(signal => lines(expr, at - 600_000, Math.min(Date.now(), at + 300_000), 40, signal), 30, [expr, at])
  return <Panel title="The log when it began" aside={<Link to={link}>Search</Link>} class="log found">
    {error ? <Empty icon="logs" title="No log">{error}</Empty> : value?.length === 0 ? <Empty icon="logs" title="Nothing was written then" />
      : <div class="lines" tabIndex={0} role="log" aria-live="off" aria-label="Log when the alert began">{value?.map(l => <div key={l.key} class={toneOf(l.text, l.level)}><time>{new Date(l.at).toLocaleTimeString([], { hour12: false })} </time><LineText text={l.text} /></div>)}</div>}
  </Panel>
}

function Hush({ a, onClose }: { a: Alert; onClose: () => void }) {
  const [hours, setHours] = useState(2), [why, setWhy] = useState('')
  const state = useStore(session), who = state.is === 'in' ? state.session.user.name : 'console'
  return <Confirm title="Silence this alert" deed={`Silence for ${hours} h`} onClose={onClose} act={async () => { await silence(a.labels, hours, who, why || 'from the console'); return 'Silenced.' }}>
    <p>Nobody is told of it meanwhile. It stays in the list.</p>
    <p><label>For <select value={String(hours)} onChange={e => setHours(Number(e.currentTarget.value))}>{[1, 2, 8, 24, 168].map(h => <option key={h} value={h}>{h < 48 ? `${h} h` : '7 days'}</option>)}</select></label></p>
    <p><label>Why <input value={why} placeholder="known, being repaired" onInput={e => setWhy(e.currentTarget.value)} /></label></p>
  </Confirm>
}
