// Deep links: every view is a path below /console/, and what is chosen in it is in the query.

import type { ComponentChildren } from 'preact'
import { createStore, useStore } from './store'

export const base = '/console'

export interface Place { path: string; query: URLSearchParams }

const here = (): Place => ({
  path: location.pathname.slice(base.length).replace(/\/$/, '') || '/',
  query: new URLSearchParams(location.search),
})

export const place = createStore<Place>(here())
export const usePlace = () => useStore(place)

addEventListener('popstate', () => place.set(here()))

/** Goes to a path such as /pods?text=cart. */
export function go(to: string, replace = false): void {
  if (base + to === location.pathname + location.search) return
  history[replace ? 'replaceState' : 'pushState'](null, '', base + to)
  place.set(here())
  if (!replace) scrollTo(0, 0)
}

/** Changes one choice of the view without a new entry in the history. */
export function choose(name: string, value: string): void {
  const { path, query } = here()
  value ? query.set(name, value) : query.delete(name)
  const text = query.toString()
  go(path + (text ? '?' + text : ''), true)
}

/** Makes a path of parts, each of which is text and nothing else. */
export function pathTo(...parts: string[]): string {
  return '/' + parts.map(encodeURIComponent).join('/')
}

export function withQuery(path: string, query: Record<string, string | undefined>): string {
  const q = new URLSearchParams()
  for (const [k, v] of Object.entries(query)) if (v) q.set(k, v)
  return q.size ? `${path}?${q}` : path
}

interface LinkProps { to: string; children?: ComponentChildren; class?: string; title?: string; 'aria-label'?: string; 'aria-current'?: 'page' | undefined }

export function Link({ to, children, ...rest }: LinkProps) {
  return <a {...rest} href={base + to} onClick={e => {
    if (e.ctrlKey || e.metaKey || e.shiftKey || e.button !== 0) return
    e.preventDefault()
    go(to)
  }}>{children}</a>
}

/** Matches /workloads/:namespace/:kind/:name against a path; null when it does not fit. */
export function match(pattern: string, path: string): Record<string, string> | null {
  const want = pattern.split('/'), have = path.split('/')
  if (want.length !== have.length) return null
  const found: Record<string, string> = {}
  for (let i = 0; i < want.length; i++) {
    if (want[i].startsWith(':')) {
      try { found[want[i].slice(1)] = decodeURIComponent(have[i]) } catch { return null }
    } else if (want[i] !== have[i]) return null
  }
  return found
}
