import { useMemo, useState } from 'preact/hooks'
import { useKind } from '../kube/paths'
import type { Event } from '../kube/types'
import { eventTime } from '../health'
import { Age, Empty, Panel, Status } from './parts'

/** What happened to objects, the newest first; about decides which. */
export function Events({ namespace, about, on, most = 8 }: { namespace: string; about: (e: Event['involvedObject']) => boolean; on: unknown[]; most?: number }) {
  const events = useKind<Event>('events', namespace)
  const list = useMemo(() => events.items.filter(e => about(e.involvedObject)).sort((a, b) => eventTime(b) - eventTime(a)), [events.items, ...on])
  const [all, setAll] = useState(false)
  return <Panel title="Events">
    {list.length ? <ul class="rows">{list.slice(0, all ? 200 : most).map(e => {
      const n = e.series?.count ?? e.count ?? 1
      return <li key={e.metadata.uid}><Status health={e.type === 'Warning' ? 'bad' : 'idle'}><span class="hidden">{e.type}</span></Status>
        <div><b>{e.reason}</b> <span class="faint">{e.involvedObject.kind === 'Pod' ? e.involvedObject.name : ''}{n > 1 ? ` ×${n}` : ''}</span><p class="faint wrap clamp" title={e.message}>{e.message}</p></div>
        <span class="faint"><Age at={eventTime(e)} /></span></li>
    })}</ul> : <Empty title={events.state === 'refused' ? events.error ?? '' : 'Nothing happened in the last hour'} />}
    {!all && list.length > most && <button type="button" class="more" onClick={() => setAll(true)}>Show {list.length - most} more</button>}
  </Panel>
}
