// A namespace: what overview shows of the whole, of this part.

import type { PageProps } from '../pages'
import { OverviewOf } from './overview'
import { useKind } from '../kube/paths'
import type { Resource } from '../kube/types'
import { Meter, Panel } from '../ui/parts'
import { quantity } from '../format'

interface Quota extends Resource { status: { hard?: Record<string, string>; used?: Record<string, string> } }

export default function NamespacePage({ params: { name } }: PageProps) {
  return <><OverviewOf namespace={name} /><Quotas namespace={name} /></>
}

function Quotas({ namespace }: { namespace: string }) {
  const quotas = useKind<Quota>('resourcequotas', namespace)
  if (!quotas.items.length) return null
  return <Panel title="Quotas"><ul class="rows">{quotas.items.flatMap(q => Object.entries(q.status.hard ?? {}).map(([what, hard]) => {
    const used = q.status.used?.[what] ?? '0'
    return <li key={q.metadata.uid + what}><span>{what}</span><Meter label={what} value={quantity(used)} max={quantity(hard)} /><span class="faint">{used} of {hard}</span></li>
  }))}</ul></Panel>
}
