// What is wrong and was told to somebody: alerts and silences. What is merely unusual wakes nobody, and is here too.

import { useMemo, useState } from 'preact/hooks'
import { Link, pathTo } from '../router'
import { useNamespace } from '../kube/paths'
import { usePolled } from '../prom'
import { alerts, endSilence, healthOf, matched, severityRank, silences, stateOf, type Alert, type Silence } from '../alerting'
import { amount, anomalies, graphOf, idOf, subjectPage, type Anomaly } from '../anomalies'
import { plural } from '../format'
import { Age, Empty, PageHead, Panel, Status } from '../ui/parts'
import { Table, type Column } from '../ui/table'
import { Confirm } from '../ui/dialog'

const columns: Column<Alert>[] = [
  { key: 'summary', title: 'Alert', cell: a => <><Link to={pathTo('alerts', a.fingerprint)} class="name">{a.annotations.summary || a.labels.alertname}</Link><br /><span class="faint">{a.annotations.object || a.labels.namespace || ''}</span></>, by: a => a.annotations.summary ?? a.labels.alertname },
  { key: 'severity', title: 'Severity', cell: a => <Status health={healthOf(a)}>{stateOf(a)}</Status>, by: a => (a.status.state === 'suppressed' ? 10 : 0) + severityRank(a) },
  { key: 'name', title: 'Rule', cell: a => <span class="faint">{a.labels.alertname}</span>, by: a => a.labels.alertname, wide: true },
  { key: 'since', title: 'Since', cell: a => <Age at={a.startsAt} />, by: a => -Date.parse(a.startsAt), right: true },
]

export default function AlertsPage() {
  const namespace = useNamespace(), polled = usePolled(signal => alerts(signal), 5, [])
  const rows = useMemo(() => (polled.value ?? []).filter(a => !namespace || !a.labels.namespace || a.labels.namespace === namespace), [polled.value, namespace])
  const loud = rows.filter(a => a.status.state !== 'suppressed'), critical = loud.filter(a => a.labels.severity === 'critical').length
  return <>
    <PageHead title="Alerts" says={!polled.value ? undefined : loud.length ? <Status health={critical ? 'bad' : 'busy'}>{critical ? `${plural(critical, 'alert is', 'alerts are')} critical` : plural(loud.length, 'alert')}{rows.length > loud.length && `, ${rows.length - loud.length} silenced or part of others`}</Status> : <Status health="ok">Nothing fires</Status>} />
    {polled.error && <Panel><Empty icon="alerts" title={/forbidden/i.test(polled.error) ? 'You may not see alerts' : 'Alerts cannot be read'}>{polled.error}</Empty></Panel>}
    {!polled.error && <Table label="Alerts" rows={rows} columns={columns} id={a => a.fingerprint} sort="severity" text={a => Object.values(a.labels).join(' ') + ' ' + (a.annotations.summary ?? '')} loading={polled.value === null}
      empty={<Empty icon="check" title="Nothing fires">Rules are evaluated all the time; what they find appears here and is sent to whom you named.</Empty>} />}
    <Unusual namespace={namespace} />
    <Silences />
  </>
}

const unusualColumns: Column<Anomaly>[] = [
  { key: 'what', title: 'What', cell: a => <><Link to={subjectPage(a)} class="name">{a.name}</Link><br /><span class="faint">{a.kind} in {a.namespace}</span></>, by: a => a.name },
  { key: 'signal', title: 'Signal', cell: a => <Link to={graphOf(a)} aria-label={`Graph of ${a.signal} of ${a.name}`}>{a.signal.replace('_', ' ')}</Link>, by: a => a.signal },
  { key: 'value', title: 'Value', cell: a => <>{amount(a.value, a.unit)}<br /><span class="faint">{amount(a.expected, a.unit)} is usual</span></>, by: a => Math.abs(a.score), right: true },
  { key: 'cause', title: 'Just before', cell: a => a.causes?.[0] ? <span class="faint"><bdi>{a.causes[0].kind} {a.causes[0].object} {a.causes[0].message}</bdi></span> : <span class="faint">–</span>, wide: true },
  { key: 'since', title: 'Since', cell: a => <><Age at={a.start} />{a.end && <><br /><span class="faint">over</span></>}</>, by: a => -Date.parse(a.start), right: true },
]

function Unusual({ namespace }: { namespace: string }) {
  const polled = usePolled(signal => anomalies(24, signal), 30, [])
  const rows = useMemo(() => (polled.value?.anomalies ?? []).filter(a => !namespace || a.namespace === namespace), [polled.value, namespace])
  if (!polled.value) return null // not looked for here, or not for you
  return <Panel title="Unusual in the last 24 hours" aside={<span class="faint">{plural(polled.value.known, 'signal')} known</span>}>
    <Table label="Unusual" rows={rows} columns={unusualColumns} id={idOf} sort="since" text={a => `${a.namespace} ${a.kind} ${a.name} ${a.signal}`}
      empty={<Empty icon="check" title="Nothing is unusual">What each workload and route usually does is learnt all the time; what leaves it appears here, with what was changed just before.</Empty>} />
  </Panel>
}

function Silences() {
  const [ending, end] = useState<Silence | null>(null), [turn, again] = useState(0)
  const polled = usePolled(signal => silences(signal), 10, [turn]), live = (polled.value ?? []).filter(s => s.status.state !== 'expired')
  if (!live.length) return null
  return <Panel title="Silences" aside={<span class="faint">{live.length}</span>}>
    <ul class="rows">{live.map(s => <li key={s.id}><Status health="idle">{s.status.state}</Status><span><span class="mono anywhere">{s.matchers.map(matched).join(' ')}</span><br /><span class="faint"><bdi>{s.comment}</bdi> · <bdi>{s.createdBy}</bdi> · until {new Date(s.endsAt).toLocaleString([], { dateStyle: 'short', timeStyle: 'short' })}</span></span>
      <button type="button" onClick={() => end(s)}>End</button></li>)}</ul>
    {ending && <Confirm title="End this silence" deed="End it" onClose={() => end(null)} act={async () => { await endSilence(ending.id); again(turn + 1); return 'The silence is over.' }}>What still fires is sent again.</Confirm>}
  </Panel>
}
