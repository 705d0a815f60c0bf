// A namespace: what the overview shows of the whole, of this part, with its workloads, quotas and events.

import { useMemo } from 'preact/hooks'
import type { PageProps } from '../pages'
import { Link, withQuery } from '../router'
import { useKind } from '../kube/paths'
import type { Namespace, Resource } from '../kube/types'
import { useWorkloads } from '../lists'
import { percent } from '../format'
import { inWords, isSystem, tenantOf, usage, type Quota } from '../tenants'
import { Empty, Meter, Panel } from '../ui/parts'
import { Events } from '../ui/events'
import { Icon } from '../ui/icons'
import { OverviewOf } from './overview'
import { WorkloadTable } from './workloads'

export default function NamespacePage({ params: { name } }: PageProps) {
  const all = useKind<Namespace>('namespaces', ''), n = all.items.find(n => n.metadata.name === name), workloads = useWorkloads(name), tenant = n && tenantOf(n)
  if (!n && all.state === 'live') return <Panel><h1 class="hidden">{name}</h1><Empty icon="namespaces" title={`There is no namespace ${name}`}>It was deleted, or never was. <Link to="/namespaces">All namespaces</Link></Empty></Panel>
  return <OverviewOf namespace={name}
    above={<><Link to="/namespaces">Namespaces</Link>{tenant ? <> · Tenant <Link to={withQuery('/namespaces', { text: tenant })}>{tenant}</Link></> : isSystem(name) ? ' · The platform' : null}</>}
    actions={<><Link class="button" to={withQuery('/logs', { namespace: name })}><Icon name="logs" />Logs</Link><Link class="button" to={withQuery('/map', { namespace: name })}><Icon name="map" />Map</Link></>}
    middle={<>
      {workloads.items.length > 0 && <Panel title="Workloads" aside={<Holds namespace={name} />}><WorkloadTable plain namespace={name} items={workloads.items} loading={workloads.loading} empty={null} /></Panel>}
      <Quotas namespace={name} />
    </>}>
    <Events namespace={name} on={[name]} about={() => true} most={6} />
  </OverviewOf>
}

/** What else there is, each with a way to it. */
function Holds({ namespace }: { namespace: string }) {
  const of = { pods: useKind<Resource>('pods', namespace), routes: useKind<Resource>('httproutes', namespace), volumes: useKind<Resource>('persistentvolumeclaims', namespace), builds: useKind<Resource>('builds', namespace) }
  const pages = { pods: '/pods', routes: '/gateway', volumes: '/volumes', builds: '/builds' } as const
  return <span class="facts">{(Object.keys(of) as (keyof typeof of)[]).filter(k => of[k].items.length).map(k =>
    <Link key={k} to={withQuery(pages[k], { namespace })}>{of[k].items.length} {of[k].items.length === 1 ? k.slice(0, -1) : k}</Link>)}</span>
}

function Quotas({ namespace }: { namespace: string }) {
  const quotas = useKind<Quota>('resourcequotas', namespace), list = useMemo(() => usage(quotas.items), [quotas.items])
  if (!list.length) return null
  return <Panel title="Quotas" aside={<span class="faint">{[...new Set(list.map(u => u.quota))].join(', ')}</span>}>
    <ul class="quotas">{list.map(u => <li key={u.quota + u.what}><span>{inWords(u.what)}</span><Meter label={inWords(u.what)} value={u.part} max={1} /><span class={u.part > 0.9 ? 'critical' : 'faint'}>{u.used} of {u.hard} · {percent(u.part)}</span></li>)}</ul>
  </Panel>
}
