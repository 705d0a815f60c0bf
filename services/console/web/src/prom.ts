// Questions to the Prometheus HTTP API.

import { useEffect, useRef, useState } from 'preact/hooks'
import { askJSON } from './session'

export interface Sample { metric: Record<string, string>; value: number }
export interface Series { metric: Record<string, string>; values: [number, number][] }

interface Answer<R> { status: string; data: { resultType: string; result: R } }
type Raw = { metric: Record<string, string>; value: [number, string] }
type RawSeries = { metric: Record<string, string>; values: [number, string][] }

export async function query(expr: string, signal?: AbortSignal): Promise<Sample[]> {
  const a = await askJSON<Answer<Raw[] | [number, string]>>(`/prometheus/api/v1/query?query=${encodeURIComponent(expr)}`, { signal })
  if (a.data.resultType === 'scalar') return [{ metric: {}, value: Number((a.data.result as [number, string])[1]) }]
  return (a.data.result as Raw[]).map(r => ({ metric: r.metric, value: Number(r.value[1]) }))
}

export async function queryRange(expr: string, start: number, end: number, step: number, signal?: AbortSignal): Promise<Series[]> {
  const q = new URLSearchParams({ query: expr, start: String(start), end: String(end), step: String(step) })
  const a = await askJSON<Answer<RawSeries[]>>(`/prometheus/api/v1/query_range?${q}`, { signal })
  return a.data.result.map(r => ({ metric: r.metric, values: r.values.map(([t, v]) => [t, Number(v)]) }))
}

/** The last half hour of an expression, as a line of values for each of its series. */
export async function trends(expr: string, points: number, signal?: AbortSignal): Promise<{ metric: Record<string, string>; values: (number | null)[] }[]> {
  const step = Math.round(1800 / points), end = Math.floor(Date.now() / 1000 / step) * step, start = end - step * points
  return (await queryRange(expr, start, end, step, signal)).map(({ metric, values }) => {
    const line: (number | null)[] = Array.from({ length: points + 1 }, () => null)
    for (const [t, v] of values) line[Math.round((t - start) / step)] = isFinite(v) ? v : null
    return { metric, values: line }
  })
}

/** Puts text into a PromQL string. */
export const quote = (text: string) => JSON.stringify(text)

/** Puts text into a PromQL regular expression that matches only it. */
export const literal = (text: string) => text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')

export interface Polled<T> { value: T | null; error?: string }

/** What ask answers, asked again every so many seconds while the page is seen. */
export function usePolled<T>(ask: ((signal: AbortSignal) => Promise<T>) | null, every: number, on: unknown[]): Polled<T> {
  const [state, set] = useState<Polled<T>>({ value: null })
  const latest = useRef(ask)
  latest.current = ask
  useEffect(() => {
    const stop = new AbortController()
    let timer = 0
    const run = async () => {
      if (!document.hidden && latest.current) {
        try {
          const value = await latest.current(stop.signal)
          if (!stop.signal.aborted) set({ value })
        } catch (e) {
          if (!stop.signal.aborted) set(was => ({ value: was.value, error: e instanceof Error ? e.message : String(e) }))
        }
      }
      if (!stop.signal.aborted) timer = window.setTimeout(run, every * 1000)
    }
    set({ value: null })
    void run()
    const seen = () => { if (!document.hidden) { clearTimeout(timer); void run() } }
    document.addEventListener('visibilitychange', seen)
    return () => { stop.abort(); clearTimeout(timer); document.removeEventListener('visibilitychange', seen) }
  }, on)
  return state
}

/** The value of an expression, kept up to date. */
export function useQuery(expr: string | null, every = 10): Polled<Sample[]> {
  return usePolled(expr === null ? null : signal => query(expr, signal), every, [expr, every])
}

/** The first value of an expression, or null. */
export function useValue(expr: string | null, every = 10): number | null {
  const { value } = useQuery(expr, every)
  return value?.[0]?.value ?? null
}
