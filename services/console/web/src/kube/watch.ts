// Lists that stay true: a list, then a watch from where it ended, for as long as somebody looks.

import { useEffect, useState } from 'preact/hooks'
import { ask, askJSON, Refusal } from '../session'
import type { Resource } from './types'

export interface View<T> {
  items: T[]
  /** loading until the first answer; stale while the connection is lost. */
  state: 'loading' | 'live' | 'stale' | 'refused'
  error?: string
}

interface List<T> { metadata: { resourceVersion: string; continue?: string }; items: T[]; kind: string }

const pageSize = 500
const linger = 30_000 // a list that nobody looks at stays for a while, for those who come back

class Collection<T extends Resource> {
  private objects = new Map<string, T>()
  private listeners = new Set<() => void>()
  private stopper: AbortController | null = null
  private idle = 0
  private drawing = 0
  view: View<T> = { items: [], state: 'loading' }

  constructor(private path: string) {}

  subscribe(l: () => void): () => void {
    this.listeners.add(l)
    clearTimeout(this.idle)
    if (!this.stopper) {
      this.stopper = new AbortController()
      void this.run(this.stopper.signal)
    }
    return () => {
      this.listeners.delete(l)
      if (this.listeners.size === 0) this.idle = window.setTimeout(() => this.stop(), linger)
    }
  }

  stop() {
    this.stopper?.abort()
    this.stopper = null
    collections.delete(this.path)
  }

  private publish(state: View<T>['state'], error?: string) {
    this.view = { ...this.view, state, error }
    this.changed()
  }

  /** Many events make one drawing. */
  private changed() {
    if (this.drawing) return
    this.drawing = window.setTimeout(() => {
      this.drawing = 0
      this.view = { ...this.view, items: [...this.objects.values()] }
      for (const l of [...this.listeners]) l()
    }, this.view.state === 'live' && this.objects.size > 50 ? 150 : 16)
  }

  private async run(signal: AbortSignal) {
    for (let pause = 500; !signal.aborted;) {
      try {
        let version = await this.list(signal)
        this.publish('live')
        pause = 500
        for (;;) version = await this.watch(version, signal)
      } catch (e) {
        if (signal.aborted) return
        if (e instanceof Refusal && [401, 403, 404].includes(e.status)) {
          this.objects.clear()
          this.publish('refused', e.message)
          if (e.status === 401) return
          pause = 30_000
        } else if (!(e instanceof Refusal && e.status === 410)) {
          this.publish(this.view.state === 'loading' ? 'loading' : 'stale', e instanceof Error ? e.message : String(e))
        }
        await new Promise(r => { setTimeout(r, pause); signal.addEventListener('abort', r) })
        pause = Math.min(pause * 2, 15_000)
      }
    }
  }

  private async list(signal: AbortSignal): Promise<string> {
    const found = new Map<string, T>()
    for (let next = ''; ;) {
      const page = await askJSON<List<T>>(`${this.path}?limit=${pageSize}${next && '&continue=' + encodeURIComponent(next)}`, { signal })
      for (const o of page.items) found.set(o.metadata.uid, lean(o))
      next = page.metadata.continue ?? ''
      if (!next) {
        this.objects = found
        return page.metadata.resourceVersion
      }
    }
  }

  /** Follows one watch to its end and returns the version that it came to. */
  private async watch(version: string, signal: AbortSignal): Promise<string> {
    const r = await ask(`${this.path}?watch=1&allowWatchBookmarks=true&resourceVersion=${encodeURIComponent(version)}`, { signal })
    const reader = r.body!.pipeThrough(new TextDecoderStream()).getReader()
    let rest = ''
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return version
      const lines = (rest + value).split('\n')
      rest = lines.pop()!
      for (const line of lines) if (line) version = this.apply(JSON.parse(line)) ?? version
    }
  }

  private apply(e: { type: string; object: T & { code?: number; message?: string } }): string | undefined {
    if (e.type === 'ERROR') throw new Refusal(e.object.code ?? 500, e.object.message ?? 'the watch ended')
    if (e.type === 'DELETED') this.objects.delete(e.object.metadata.uid)
    else if (e.type !== 'BOOKMARK') this.objects.set(e.object.metadata.uid, lean(e.object))
    if (e.type !== 'BOOKMARK') this.changed()
    return e.object.metadata.resourceVersion
  }
}

function lean<T extends Resource>(o: T): T {
  delete (o.metadata as { managedFields?: unknown }).managedFields
  return o
}

const collections = new Map<string, Collection<Resource>>()

/** Forgets everything, for the next person who logs in. */
export function forgetAll() {
  for (const c of [...collections.values()]) c.stop()
}

const nothing: View<never> = { items: [], state: 'loading' }

/** The objects at a path such as /api/v1/pods, kept up to date. No path, no objects. */
export function useList<T extends Resource>(path: string | null): View<T> {
  const [, redraw] = useState(0)
  useEffect(() => path === null ? undefined : collectionOf(path).subscribe(() => redraw(n => n + 1)), [path])
  return path === null ? nothing : collectionOf(path).view as View<T>
}

function collectionOf(path: string): Collection<Resource> {
  let c = collections.get(path)
  if (!c) collections.set(path, c = new Collection(path))
  return c
}
