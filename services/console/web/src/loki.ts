// Questions to Loki's HTTP API.

import { askJSON } from './session'
import { parseLine } from './logs'
import { quote } from './prom'

export interface Line { key: string; at: number; labels: Record<string, string>; text: string; level: string }

interface Answer { data: { resultType: string; result: { stream: Record<string, string>; values: [string, string][] }[] } }
interface Counts { data: { result: { metric: Record<string, string>; values: [number, string][] }[] } }

export interface Wanted { namespace: string; app: string; pod: string; container: string; level: string; text: string }

/** What is asked for as a LogQL selector with its filters. The words are looked for as they are, in any case. */
export function selector(w: Wanted): string {
  const labels = (['namespace', 'app', 'pod', 'container'] as const).filter(k => w[k]).map(k => `${k}=${quote(w[k])}`)
  const words = w.text.split(/\s+/).filter(Boolean).map(t => ` |~ ${quote('(?i)' + t.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'))}`)
  return `{${labels.length ? labels.join(', ') : 'namespace=~".+"'}}${words.join('')}${w.level ? ` | detected_level=${quote(w.level)}` : ''}`
}

/** The latest lines between two times (milliseconds), the oldest first. */
export async function lines(query: string, from: number, to: number, limit: number, signal?: AbortSignal): Promise<Line[]> {
  const q = new URLSearchParams({ query, start: `${Math.floor(from)}000000`, end: `${Math.ceil(to)}000000`, limit: String(limit), direction: 'backward' })
  const a = await askJSON<Answer>(`/loki/api/v1/query_range?${q}`, { signal })
  const all = a.data.result.flatMap(s => s.values.map(([t, text]) => ({
    key: `${t}${s.stream.pod}${s.stream.container}${text.length}`, nanos: BigInt(t), at: Number(BigInt(t) / 1000000n), labels: s.stream, text: parseLine(text).text, level: s.stream.detected_level ?? '',
  })))
  return all.sort((x, y) => x.nanos < y.nanos ? -1 : x.nanos > y.nanos ? 1 : 0)
}

export interface Bar { at: number; lines: number; bad: number }

/** How many lines were written in each of so many parts of a time. */
export async function histogram(query: string, from: number, to: number, parts: number, signal?: AbortSignal): Promise<Bar[]> {
  const step = Math.max(1, Math.ceil((to - from) / 1000 / parts))
  const ask = async (expr: string) => {
    const q = new URLSearchParams({ query: expr, start: `${Math.floor(from)}000000`, end: `${Math.ceil(to)}000000`, step: String(step) })
    const a = await askJSON<Counts>(`/loki/api/v1/query_range?${q}`, { signal })
    return new Map((a.data.result[0]?.values ?? []).map(([t, v]) => [Math.round(t), Number(v)]))
  }
  const [all, bad] = await Promise.all([ask(`sum(count_over_time(${query} [${step}s]))`), ask(`sum(count_over_time(${query} | detected_level=~"error|critical|fatal" [${step}s]))`)])
  return [...all.keys()].sort((a, b) => a - b).map(t => ({ at: t * 1000, lines: all.get(t) ?? 0, bad: bad.get(t) ?? 0 }))
}

export async function values(label: string, query: string, signal?: AbortSignal): Promise<string[]> {
  const a = await askJSON<{ data?: string[] }>(`/loki/api/v1/label/${label}/values?query=${encodeURIComponent(query)}`, { signal })
  return a.data ?? []
}
