import { useState } from 'preact/hooks'
import type { Change } from '../health'
import { Age, Name } from './parts'
import { Icon } from './icons'

const icons = { deploy: 'deploy', scale: 'scale', other: 'dot' } as const

/** Changes, the newest first. */
export function ChangeList({ changes, most = 8 }: { changes: Change[]; most?: number }) {
  const [all, setAll] = useState(false)
  return <>
    <ul class="rows">{changes.slice(0, all ? undefined : most).map(c => <li key={c.key}>
      <Icon name={icons[c.kind]} /><div><Name object={c.object} to={c.to} />{c.by && <span class="faint"> by {c.by}</span>}<p class={`wrap clamp ${c.bad ? 'critical' : 'faint'}`} title={c.what}>{c.what}</p></div><span class="faint"><Age at={c.at} /></span>
    </li>)}</ul>
    {!all && changes.length > most && <button type="button" class="more" onClick={() => setAll(true)}>Show {changes.length - most} more</button>}
  </>
}
