// Search over everything by keyboard: pages, objects of all kinds, images, alerts, deeds, and words in logs.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { createStore, useStore } from '../store'
import { go, pathTo, place, withQuery } from '../router'
import { pages } from '../pages'
import { pathOf } from '../kube/paths'
import { useList } from '../kube/watch'
import { namespaceSetting } from '../kube/paths'
import type { Resource } from '../kube/types'
import type { Build } from '../builds'
import { pageOfImage, shortDigest, useImages } from '../images'
import { alerts } from '../alerting'
import { usePolled } from '../prom'
import { logOut } from '../session'
import { theme } from '../theme'
import { Icon, type IconName } from './icons'

const open = createStore(false)
export const openPalette = () => open.set(true)

/** Where the person was, the last first; of objects only, and only as long as this page is open. */
const visited: string[] = []
place.subscribe(() => {
  const { path } = place.get()
  if (path.split('/').length < 3) return
  const was = visited.indexOf(path)
  if (was >= 0) visited.splice(was, 1)
  visited.unshift(path)
  visited.length = Math.min(visited.length, 5)
})

addEventListener('keydown', e => {
  const typing = e.target instanceof HTMLElement && (e.target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName))
  if ((e.key === '/' && !typing && !e.ctrlKey && !e.metaKey && !e.altKey) || (e.key.toLowerCase() === 'k' && (e.ctrlKey || e.metaKey))) {
    e.preventDefault()
    open.set(true)
  }
})

export interface Found { title: string; group: string; icon: IconName; to: string; detail?: string; act?: () => void }

/** How well a text fits what was typed: 0 is not at all. All words must occur; a start counts more. */
export function fits(text: string, typed: string): number {
  const t = text.toLowerCase()
  let score = 1
  for (const w of typed.toLowerCase().split(/\s+/).filter(Boolean)) {
    const i = t.indexOf(w)
    if (i < 0) return 0
    score += i === 0 ? 4 : /[\s/:._-]/.test(t[i - 1]) ? 2 : 1
  }
  return score + 1 / (1 + t.length)
}

export function Palette() {
  return useStore(open) ? <Dialog /> : null
}

const most = 40

/** Of several things of one name people mean the workload first; a sentence fits more easily than a name does. */
const worth: Record<string, number> = { HTTPRoute: 0.8, GRPCRoute: 0.8, Ingress: 0.8, Service: 0.8, Volume: 0.8, Pod: 0.9, Image: 0.7, Build: 0.7, Alert: 0.4 }

/** How well something found fits what was typed: by its name, by its name in its namespace, by its kind. */
export const rated = (f: Found, typed: string) => (worth[f.group] ?? 1) *
  (fits(f.title, typed) || fits(f.detail ? `${f.detail}/${f.title}` : f.title, typed) / 2 || fits(`${f.detail ?? ''}/${f.title} ${f.group}`, typed) / 4)

function Dialog() {
  const [typed, setTyped] = useState('')
  const [at, setAt] = useState(0)
  const box = useRef<HTMLDialogElement>(null)
  const list = useRef<HTMLUListElement>(null)
  const all = useEverything()
  const found = useMemo(() => {
    if (!typed.trim()) return [...visited.flatMap(path => all.find(f => f.to === path) ?? []), ...all.filter(f => f.group === 'Page')]
    const fitting = all.map(f => ({ f, score: rated(f, typed) })).filter(r => r.score > 0)
    const text = typed.trim()
    return [...fitting.sort((a, b) => b.score - a.score).slice(0, most).map(r => r.f), { title: `“${text}” in all logs`, group: 'Search', icon: 'logs', to: withQuery('/logs', { text }) } satisfies Found as Found]
  }, [all, typed])
  const chosen = Math.min(at, found.length - 1)
  useEffect(() => { box.current!.showModal(); return () => open.set(false) }, [])
  useEffect(() => { list.current?.children[chosen]?.scrollIntoView({ block: 'nearest' }) }, [chosen])
  const take = (f: Found | undefined) => { if (f) { open.set(false); f.act ? f.act() : go(f.to) } }
  return <dialog ref={box} class="palette" aria-label="Search everything" onClose={() => open.set(false)} onClick={e => { if (e.target === box.current) box.current!.close() }}>
    <div class="palette-input"><Icon name="search" />
      <input autofocus role="combobox" aria-expanded="true" aria-controls="found" aria-activedescendant={found.length ? `found-${chosen}` : undefined} aria-label="Search pages, objects, images, alerts, logs"
        placeholder="Search pages, objects, images, alerts, logs…" value={typed} spellcheck={false} autocomplete="off"
        onInput={e => { setTyped(e.currentTarget.value); setAt(0) }}
        onKeyDown={e => {
          const step = { ArrowDown: 1, ArrowUp: -1 }[e.key]
          if (step) { e.preventDefault(); setAt((chosen + step + found.length) % Math.max(1, found.length)) }
          if (e.key === 'Enter') { e.preventDefault(); take(found[chosen]) }
        }} />
      <kbd>esc</kbd></div>
    <ul id="found" ref={list} role="listbox" aria-label="Found">
      {found.map((f, i) => <li key={f.to + f.group + f.title} id={`found-${i}`} role="option" aria-selected={i === chosen} onMouseMove={() => setAt(i)} onClick={() => take(f)}>
        <Icon name={f.icon} /><span class="what">{f.detail && <span class="faint">{f.detail}/</span>}{f.title}</span><span class="faint">{f.group}</span>
      </li>)}
    </ul>
    {found.length === 0 && <p class="faint nothing">Nothing is called that.</p>}
  </dialog>
}

function useEverything(): Found[] {
  const namespace = namespaceSetting.get()
  const deployments = useList<Resource>(pathOf('deployments', namespace)), stateful = useList<Resource>(pathOf('statefulsets', namespace))
  const daemons = useList<Resource>(pathOf('daemonsets', namespace)), pods = useList<Resource>(pathOf('pods', namespace))
  const services = useList<Resource>(pathOf('services', namespace)), namespaces = useList<Resource>(pathOf('namespaces'))
  const jobs = useList<Resource>(pathOf('jobs', namespace)), cronJobs = useList<Resource>(pathOf('cronjobs', namespace)), claims = useList<Resource>(pathOf('persistentvolumeclaims', namespace))
  const http = useList<Resource>(pathOf('httproutes', namespace)), grpc = useList<Resource>(pathOf('grpcroutes', namespace)), ingresses = useList<Resource>(pathOf('ingresses', namespace)), builds = useList<Build>(pathOf('builds', namespace))
  const images = useImages().value?.images, firing = usePolled(signal => alerts(signal), 30, []).value
  return useMemo(() => {
    const of = (items: Resource[], group: string, icon: IconName, to: (o: Resource) => string): Found[] =>
      items.map(o => ({ title: o.metadata.name, detail: o.metadata.namespace, group, icon, to: to(o) }))
    const workload = (kind: string) => (o: Resource) => pathTo('workloads', o.metadata.namespace!, kind, o.metadata.name)
    const route = (kind: string) => (o: Resource) => pathTo('gateway', kind, o.metadata.namespace!, o.metadata.name)
    const deed = (title: string, icon: IconName, act: () => void): Found => ({ title, group: 'Do', icon, to: '', act })
    return [
      ...pages.filter(p => p.menu).map(p => ({ title: p.title, group: 'Page', icon: p.menu!.icon, to: p.path })),
      ...of(deployments.items, 'Deployment', 'workloads', workload('deployment')),
      ...of(stateful.items, 'StatefulSet', 'workloads', workload('statefulset')),
      ...of(daemons.items, 'DaemonSet', 'workloads', workload('daemonset')),
      ...of(pods.items, 'Pod', 'pods', o => pathTo('pods', o.metadata.namespace!, o.metadata.name)),
      ...of(namespaces.items, 'Namespace', 'namespaces', o => pathTo('namespaces', o.metadata.name)),
      ...of(services.items, 'Service', 'gateway', o => withQuery('/workloads', { namespace: o.metadata.namespace, text: o.metadata.name })),
      ...of(jobs.items, 'Job', 'workloads', workload('job')), ...of(cronJobs.items, 'CronJob', 'workloads', workload('cronjob')),
      ...of(claims.items, 'Volume', 'volumes', o => withQuery('/volumes', { namespace: o.metadata.namespace, text: o.metadata.name })),
      ...of(http.items, 'HTTPRoute', 'gateway', route('httproutes')), ...of(grpc.items, 'GRPCRoute', 'gateway', route('grpcroutes')), ...of(ingresses.items, 'Ingress', 'gateway', route('ingresses')),
      ...builds.items.map(b => ({ title: `${b.spec.pipeline} #${b.spec.number}`, detail: b.metadata.namespace, group: 'Build', icon: 'builds' as const, to: pathTo('builds', b.metadata.namespace!, b.metadata.name) })),
      ...(images ?? []).map(i => ({ title: `${i.repository.split('/').slice(1).join('/') || i.repository}:${i.tags?.[0] ?? shortDigest(i.digest)}`, detail: i.repository.includes('/') ? i.repository.split('/')[0] : undefined, group: 'Image', icon: 'images' as const, to: pageOfImage(i.repository, i.digest) })),
      ...(firing ?? []).map(a => ({ title: a.annotations.summary || a.labels.alertname, group: 'Alert', icon: 'alerts' as const, to: pathTo('alerts', a.fingerprint) })),
      deed('Light colours', 'sun', () => theme.set('light')), deed('Dark colours', 'moon', () => theme.set('dark')), deed('Colours as the system', 'auto', () => theme.set('auto')), deed('Log out', 'user', () => void logOut()),
    ]
  }, [deployments.items, stateful.items, daemons.items, pods.items, services.items, namespaces.items, jobs.items, cronJobs.items, claims.items, http.items, grpc.items, ingresses.items, builds.items, images, firing])
}
