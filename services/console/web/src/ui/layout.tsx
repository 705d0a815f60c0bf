// What surrounds every page: the menu, the namespace, the search, the person.

import type { ComponentChildren } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { choose, Link, place, usePlace } from '../router'
import { pages } from '../pages'
import { logOut, session } from '../session'
import { useStore } from '../store'
import { theme } from '../theme'
import { namespaceSetting, useNamespace, pathOf } from '../kube/paths'
import { useList } from '../kube/watch'
import type { Namespace } from '../kube/types'
import { usePolled } from '../prom'
import { alerts } from '../alerting'
import { Icon } from './icons'
import { Told } from './dialog'
import { openPalette, Palette } from './palette'

export function Layout({ path, children }: { path: string; children: ComponentChildren }) {
  const [menu, setMenu] = useState(false)
  const first = useRef(true)
  useEffect(() => {
    setMenu(false)
    // Who goes on by keyboard goes on from the new page, not from the menu.
    if (!first.current) document.getElementById('main')?.focus({ preventScroll: true })
    first.current = false
  }, [path])
  useEffect(() => {
    const close = (e: KeyboardEvent) => { if (e.key === 'Escape') setMenu(false) }
    addEventListener('keydown', close)
    return () => removeEventListener('keydown', close)
  }, [])
  return <div class={menu ? 'layout menu-open' : 'layout'}>
    <a class="skip" href="#main" onClick={e => { e.preventDefault(); document.getElementById('main')?.focus() }}>Skip to the page</a>
    <header class="top">
      <button type="button" class="icon-button burger" aria-label="Menu" aria-expanded={menu} aria-controls="menu" onClick={() => setMenu(!menu)}><Icon name={menu ? 'close' : 'menu'} /></button>
      <Link to="/" class="brand" aria-label="Gantry, overview"><Brand /><span>Gantry</span></Link>
      <NamespacePicker />
      <button type="button" class="search-button" aria-label="Search everything" onClick={openPalette} aria-keyshortcuts="/ Control+K"><Icon name="search" /><span>Search everything</span><kbd>/</kbd></button>
      <ThemeSwitch />
      <Person />
    </header>
    <nav id="menu" aria-label="Pages"><Menu path={path} /></nav>
    <div class="veil" onClick={() => setMenu(false)} />
    <main id="main" tabIndex={-1}>{children}</main>
    <Palette />
    <Told />
  </div>
}

const Brand = () => <svg viewBox="0 0 32 32" width="22" height="22" aria-hidden="true"><rect width="32" height="32" rx="7" class="brand-back" /><path d="M6 10h20M9 10v14M23 10v14M16 10v6" class="brand-line" /><rect x="13" y="16" width="6" height="5" rx="1" class="brand-load" /></svg>

/** How many alerts there are that somebody was told of: critical ones, or else the others. */
function useFiring(): { count: number; critical: boolean } | null {
  const { value } = usePolled(signal => alerts(signal), 15, [])
  const loud = (value ?? []).filter(a => a.status.state === 'active' && ['critical', 'warning'].includes(a.labels.severity ?? '')), critical = loud.filter(a => a.labels.severity === 'critical').length
  return loud.length ? { count: critical || loud.length, critical: critical > 0 } : null
}

function Menu({ path }: { path: string }) {
  const firing = useFiring()
  const groups = new Map<string, typeof pages>()
  for (const p of pages) if (p.menu) groups.set(p.menu.group, [...(groups.get(p.menu.group) ?? []), p])
  const here = (p: string) => p === '/' ? path === '/' : path === p || path.startsWith(p + '/')
  return <>{[...groups].map(([group, list]) => <div class="group" key={group}>
    {group && <h2>{group}</h2>}
    <ul>{list.map(p => <li key={p.path}><Link to={p.path} aria-current={here(p.path) ? 'page' : undefined}><Icon name={p.menu!.icon} />{p.title}{p.path === '/alerts' && firing && <span class={`badge ${firing.critical ? 'bad' : ''}`}><span class="hidden">, </span>{firing.count}<span class="hidden"> {firing.critical ? 'critical' : 'firing'}</span></span>}</Link></li>)}</ul>
  </div>)}</>
}

function NamespacePicker() {
  const current = useNamespace()
  const { query } = usePlace()
  const list = useList<Namespace>(pathOf('namespaces'))
  const names = list.items.map(n => n.metadata.name).sort()
  if (current && !names.includes(current)) names.unshift(current)
  const set = (name: string) => {
    namespaceSetting.set(name)
    if (query.has('namespace')) choose('namespace', '')
    else place.set({ ...place.get() })
  }
  if (list.state === 'refused') return <label class="picker"><span class="hidden">Namespace</span>
    <input value={current} placeholder="Namespace" onChange={e => set(e.currentTarget.value.trim())} /></label>
  return <label class="picker"><span class="hidden">Namespace</span>
    <select value={current} onChange={e => set(e.currentTarget.value)}>
      <option value="">All namespaces</option>
      {names.map(n => <option key={n} value={n}>{n}</option>)}
    </select></label>
}

const nextTheme: Record<string, string> = { auto: 'light', light: 'dark', dark: 'auto' }
const themeName: Record<string, string> = { auto: 'as the system', light: 'light', dark: 'dark' }

function ThemeSwitch() {
  const now = useStore(theme)
  return <button type="button" class="icon-button theme" aria-label={`Colours: ${themeName[now]}. Change to ${themeName[nextTheme[now]]}`} title={`Colours: ${themeName[now]}`} onClick={() => theme.set(nextTheme[now])}>
    <Icon name={now === 'auto' ? 'auto' : now === 'light' ? 'sun' : 'moon'} />
  </button>
}

function Person() {
  const state = useStore(session)
  if (state.is !== 'in') return null
  const { user, expires } = state.session
  return <details class="person">
    <summary aria-label={`Logged in as ${user.name}`}><Icon name="user" /></summary>
    <div class="card">
      <p class="faint">Logged in as</p>
      <p class="who">{user.name}</p>
      <p class="faint">until {new Date(expires).toLocaleString([], { dateStyle: 'short', timeStyle: 'short' })}</p>
      <button type="button" onClick={() => void logOut()}>Log out</button>
    </div>
  </details>
}
