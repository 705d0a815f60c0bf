// A value that components follow.

import { useEffect, useState } from 'preact/hooks'

export interface Store<T> {
  get(): T
  set(next: T): void
  subscribe(listener: () => void): () => void
}

export function createStore<T>(initial: T): Store<T> {
  let value = initial
  const listeners = new Set<() => void>()
  return {
    get: () => value,
    set(next) {
      if (Object.is(next, value)) return
      value = next
      for (const l of [...listeners]) l()
    },
    subscribe(l) {
      listeners.add(l)
      return () => listeners.delete(l)
    },
  }
}

export function useStore<T>(store: Store<T>): T {
  const [value, set] = useState(store.get())
  useEffect(() => {
    const update = () => set(() => store.get())
    update()
    return store.subscribe(update)
  }, [store])
  return value
}

/** Seconds tick for ages, one timer for all. */
const clock = createStore(Date.now())
setInterval(() => { if (!document.hidden) clock.set(Date.now()) }, 1000)

/** The time, which changes every so many seconds. */
export function useNow(seconds = 1): number {
  const [now, set] = useState(clock.get())
  useEffect(() => clock.subscribe(() => set(was => clock.get() - was >= seconds * 1000 - 50 ? clock.get() : was)), [seconds])
  return now
}

/** A setting of this browser that outlives the page. */
export function createSetting(key: string, initial: string): Store<string> {
  const store = createStore(localStorage.getItem(key) ?? initial)
  store.subscribe(() => localStorage.setItem(key, store.get()))
  return store
}
