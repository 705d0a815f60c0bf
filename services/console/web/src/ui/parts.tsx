// The small parts that all pages are made of.

import type { ComponentChildren } from 'preact'
import { useNow } from '../store'
import { Link } from '../router'
import { span } from '../format'
import type { Health } from '../workloads'
import type { View } from '../kube/watch'
import { Icon, type IconName } from './icons'

/** Head of a page: where one is, what it is, and what can be done. */
export function PageHead({ title, above, says, children }: { title: string; above?: ComponentChildren; says?: ComponentChildren; children?: ComponentChildren }) {
  return <header class="page-head">
    <div>
      {above && <p class="above">{above}</p>}
      <h1>{title}</h1>
      {says && <p class="says">{says}</p>}
    </div>
    {children && <div class="actions">{children}</div>}
  </header>
}

/** A section with a heading. */
export function Panel({ title, aside, children, class: c = '' }: { title?: string; aside?: ComponentChildren; children: ComponentChildren; class?: string }) {
  return <section class={`panel ${c}`} aria-label={title}>
    {title && <header><h2>{title}</h2>{aside && <div class="aside">{aside}</div>}</header>}
    {children}
  </section>
}

/** A state in a word, with a mark whose form tells it too. */
export function Status({ health, children }: { health: Health; children: ComponentChildren }) {
  return <span class={`status ${health}`}><i aria-hidden="true" />{children}</span>
}

/** What to show where there is nothing: why, and what would change it. */
export function Empty({ icon = 'dot', title, children }: { icon?: IconName; title: string; children?: ComponentChildren }) {
  return <div class="empty"><Icon name={icon} /><p><strong>{title}</strong></p>{children && <p>{children}</p>}</div>
}

export function Age({ at }: { at: string | number | undefined }) {
  const t = typeof at === 'string' ? Date.parse(at) : at
  const now = useNow(t && Date.now() - t > 600_000 ? 30 : 1)
  if (!t) return <span class="faint">–</span>
  const date = new Date(t)
  return <time dateTime={date.toISOString()} title={date.toLocaleString()}>{span(now - t)}</time>
}

/** A line through values, in a box of 100 by 20; where there is no value there is a gap. */
export function sparkPath(values: (number | null)[]): string {
  const top = Math.max(...values.map(v => v ?? 0), 1e-9)
  let path = '', pen = 'M'
  values.forEach((v, i) => {
    if (v !== null) path += `${pen}${(i / Math.max(1, values.length - 1) * 100).toFixed(1)} ${(19 - v / top * 17).toFixed(1)}`
    pen = v === null ? 'M' : 'L'
  })
  return path
}

/** A small line without axes, beside a figure that says the same. */
export function Trend({ values, tone = '' }: { values: (number | null)[]; tone?: 'bad' | '' }) {
  const path = sparkPath(values)
  return <svg class={`spark ${tone}`} viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true">{path && <path d={path} />}</svg>
}

/** How much of something is used: a bar with its figures beside it. */
export function Meter({ value, max, label, mark, plain }: { value: number | null; max: number | null; label: string; mark?: number | null; /** Full is not bad. */ plain?: boolean }) {
  const part = value !== null && max ? Math.min(1, value / max) : 0
  return <div class={`meter ${part > 0.9 && !plain ? 'high' : ''}`} role="meter" aria-label={label} aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round(part * 100)}>
    <svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">
      <rect width={part * 100} height="4" />
      {mark != null && max ? <line x1={Math.min(100, mark / max * 100)} x2={Math.min(100, mark / max * 100)} y1="0" y2="4" /> : null}
    </svg>
  </div>
}

/** A name of an object, with its namespace in a fainter tone. */
export function Name({ object, to }: { object: string; to: string }) {
  const slash = object.indexOf('/')
  return <Link to={to} class="name">{slash >= 0 && <span class="faint">{object.slice(0, slash + 1)}</span>}{object.slice(slash + 1)}</Link>
}

/** Says when lists cannot be read, or are not up to date. */
export function Trouble({ of }: { of: View<unknown>[] }) {
  const refused = of.find(v => v.state === 'refused'), stale = of.find(v => v.state === 'stale')
  if (refused) return <p class="notice" role="alert"><Icon name="warn" /> {refused.error}</p>
  if (stale) return <p class="notice" role="status"><Icon name="warn" /> The connection is lost: what you see may be old. Trying again…</p>
  return null
}

/** What stands where something is about to be. */
export const Skeleton = () => <Panel><div class="skeleton" aria-hidden="true"><i /><i /><i /></div></Panel>

export const loading = (...views: View<unknown>[]) => views.some(v => v.state === 'loading')
