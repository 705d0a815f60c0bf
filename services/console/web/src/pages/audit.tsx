// Who did what, when and with what result.

import { useEffect, useState } from 'preact/hooks'
import { choose, usePlace } from '../router'
import { askJSON } from '../session'
import { usePolled } from '../prom'
import { useNamespace } from '../kube/paths'
import { seconds } from '../format'
import { Age, Empty, PageHead, Panel, Status } from '../ui/parts'
import { Table, type Column } from '../ui/table'
import '../style/graph.css'

interface Event {
  auditID: string; verb: string; requestReceivedTimestamp: string; requestURI: string; sourceIPs?: string[]; userAgent?: string
  user: { username: string }; impersonatedUser?: { username: string }; responseStatus?: { code?: number; message?: string }
  objectRef?: { resource?: string; subresource?: string; namespace?: string; name?: string }
  annotations?: Record<string, string>
}
interface Passed { time: string; client: string; who?: { name: string; method: string }; method: string; host: string; path: string; route: string; status: number; refused?: string; policy?: string; seconds: number }
interface Row { id: string; at: string; who: string; by?: string; did: string; what: string; namespace: string; code: number; from: string; why?: string }

const limit = 300
const code = (status: number) => <Status health={status >= 500 || status === 403 || status === 401 || status === 429 ? 'bad' : status >= 400 ? 'busy' : 'ok'}>{status || '–'}</Status>

const ofEvent = (e: Event): Row => {
  const o = e.objectRef, who = e.impersonatedUser?.username ?? e.user.username
  return {
    id: e.auditID, at: e.requestReceivedTimestamp, who, by: e.impersonatedUser && e.user.username, did: o?.subresource && o.resource === 'pods' ? o.subresource : e.verb, namespace: o?.namespace ?? '',
    what: o?.resource ? [o.resource + (o.subresource ? '/' + o.subresource : ''), o.name].filter(Boolean).join(' ') : e.requestURI.split('?')[0],
    code: e.responseStatus?.code ?? 0, from: [e.sourceIPs?.[0], e.userAgent?.split(' ')[0]].filter(Boolean).join(' '), why: e.responseStatus?.message ?? e.annotations?.['authorization.k8s.io/reason'],
  }
}
const ofPassed = (p: Passed, i: number): Row => ({
  id: p.time + i, at: p.time, who: p.who?.name ?? 'unknown', by: p.who?.method, did: p.method, what: p.host + p.path, namespace: p.route.split('/')[1] ?? '', code: p.status, from: p.client,
  why: p.refused ? `${p.refused} by ${p.policy}` : `answered in ${seconds(p.seconds)}`,
})

const columns: Column<Row>[] = [
  { key: 'who', title: 'Who', cell: r => <><b><bdi>{r.who}</bdi></b>{r.by && <span class="faint"> by <bdi>{r.by}</bdi></span>}</>, by: r => r.who },
  { key: 'did', title: 'Did', cell: r => r.did, by: r => r.did },
  { key: 'what', title: 'What', cell: r => <span class="anywhere">{r.namespace && <span class="faint">{r.namespace}/</span>}{r.what}</span>, by: r => r.namespace + r.what },
  { key: 'code', title: 'Result', cell: r => <span title={r.why}>{code(r.code)}</span>, by: r => r.code },
  { key: 'from', title: 'From', cell: r => <span class="faint">{r.from}</span>, by: r => r.from, wide: true },
  { key: 'at', title: 'Ago', cell: r => <Age at={r.at} />, by: r => Date.parse(r.at), right: true },
]

export default function AuditPage() {
  const { query } = usePlace(), namespace = useNamespace(), of = query.get('of') === 'requests' ? 'requests' : 'events', search = query.get('search') ?? '', before = query.get('before') ?? ''
  const [text, set] = useState(search)
  useEffect(() => set(search), [search])
  const polled = usePolled(async signal => {
    const q = new URLSearchParams({ limit: String(limit) })
    for (const [k, v] of Object.entries({ namespace, text: search, before })) if (v) q.set(k, v)
    const a = await askJSON<{ entries: (Event | Passed)[]; complete: boolean }>(`/audit/api/v1/${of}?${q}`, { signal })
    return { rows: a.entries.map((e, i) => of === 'events' ? ofEvent(e as Event) : ofPassed(e as Passed, i)), complete: a.complete }
  }, before ? 3600 : 5, [of, namespace, search, before])
  const rows = polled.value?.rows ?? []
  return <>
    <PageHead title="Audit" says={of === 'events' ? 'Who changed something, opened a container or read a Secret.' : 'Requests at the gateway that a TrafficPolicy wants to have recorded.'} />
    <form class="ask" role="search" onSubmit={e => { e.preventDefault(); choose('search', text.trim()) }}>
      <label><span class="hidden">Log</span><select value={of} onChange={e => choose('of', e.currentTarget.value === 'events' ? '' : 'requests')}><option value="events">The API</option><option value="requests">The gateway</option></select></label>
      <label class="grow"><span class="hidden">Search in the whole log</span><input type="search" placeholder="Search in the whole log: a person, a name, an address" value={text} onInput={e => { set(e.currentTarget.value); if (!e.currentTarget.value) choose('search', '') }} /></label>
      <button type="submit" class="primary">Search</button>
    </form>
    {polled.error && <Panel><Empty icon="audit" title={/forbidden/i.test(polled.error) ? 'You may not read the audit log' : 'The audit log cannot be read'}>
      {/forbidden/i.test(polled.error) ? <>It needs the ClusterRole <code>gantry-audit-reader</code>.</> : polled.error}</Empty></Panel>}
    {!polled.error && <Table label="Entries" rows={rows} columns={columns} id={r => r.id} sort="-at" loading={polled.value === null}
      empty={<Empty icon="audit" title="Nothing is recorded">{of === 'requests' ? 'A TrafficPolicy with an audit log records requests.' : 'Changes appear here as they are made.'}</Empty>} />}
    {(before || polled.value?.complete === false) && <p class="pager">{before && <button type="button" onClick={() => choose('before', '')}>Latest</button>} {polled.value?.complete === false && rows.length > 0 && <button type="button" onClick={() => choose('before', rows.at(-1)!.at)}>Older</button>}</p>}
  </>
}
