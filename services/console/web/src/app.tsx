// From the address to the page, for those who are logged in.

import type { ComponentType } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { match, usePlace } from './router'
import { pages, type Page, type PageProps } from './pages'
import { session } from './session'
import { useStore } from './store'
import { forgetAll } from './kube/watch'
import { startWhereAllowed } from './kube/paths'
import { Layout } from './ui/layout'
import { Login } from './pages/login'
import { Empty } from './ui/parts'

function find(path: string): { page: Page; params: Record<string, string> } | null {
  for (const page of pages) {
    const params = match(page.path, path)
    if (params) return { page, params }
  }
  return null
}

export function App() {
  const state = useStore(session)
  const { path } = usePlace()
  const name = state.is === 'in' ? state.session.user.name : ''
  const [ready, setReady] = useState('')
  useEffect(() => {
    if (!name) return forgetAll()
    void startWhereAllowed(name).finally(() => setReady(name))
  }, [name])
  if (state.is === 'unknown') return null
  if (state.is === 'out' || path === '/login') return <Login why={state.is === 'out' ? state.why : undefined} />
  if (ready !== name) return null
  const found = find(path)
  return <Layout path={path}>
    {found ? <Loaded key={path} {...found} /> : <Empty icon="search" title="There is no such page">Look for it with <kbd>/</kbd>.</Empty>}
  </Layout>
}

const components = new Map<Page, ComponentType<PageProps>>()

function Loaded({ page, params }: { page: Page; params: Record<string, string> }) {
  const [, redraw] = useState(0)
  const [error, setError] = useState('')
  const box = useRef<HTMLDivElement>(null)
  useEffect(() => {
    document.title = `${Object.values(params).at(-1) ?? page.title} · Gantry`
    if (components.has(page)) return
    page.load().then(m => { components.set(page, m.default); redraw(n => n + 1) }, e => setError(String(e)))
  }, [page])
  const Component = components.get(page)
  if (error) return <Empty icon="warn" title="This page could not be loaded">{error} Reload to try again.</Empty>
  return <div ref={box} class="page">{Component && <Component params={params} />}</div>
}
