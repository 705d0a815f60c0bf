import { severities, type Scan } from '../images'

/** What a scan found, as a count for each severity that there is. */
export function Severities({ scan }: { scan: Scan | undefined }) {
  if (!scan) return <span class="faint">not scanned</span>
  const some = severities.filter(s => scan[s] > 0)
  return <span class="severities">{some.length === 0 ? <span class="sev none">none found</span> : some.map(s => <span key={s} class={`sev ${s}`} title={`${scan[s]} ${s}`}>{scan[s]} <span>{s}</span></span>)}
    {scan.secrets > 0 && <span class="sev high secret">{scan.secrets} <span>{scan.secrets === 1 ? 'secret' : 'secrets'}</span></span>}</span>
}
