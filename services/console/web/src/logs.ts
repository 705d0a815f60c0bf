// The log of a container, read as it is written.

import { ask } from './session'
import { pathOf } from './kube/paths'

export interface LogLine { at: string; text: string }

const escapes = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*(?:\x07|\x1b\\)|[@-Z\\-_])/g
const controls = /[\x00-\x08\x0b-\x1f\x7f]/g

/** Takes a line apart, and out of it what terminals would interpret. */
export function parseLine(line: string): LogLine {
  const space = line.indexOf(' ')
  const stamp = line.slice(0, space)
  const timed = /^\d{4}-\d\d-\d\dT/.test(stamp)
  return { at: timed ? stamp : '', text: (timed ? line.slice(space + 1) : line).replace(escapes, '').replace(controls, '�') }
}

export interface LogSource { namespace: string; pod: string; container: string; previous: boolean; tail: number }

/** Hands lines over until the signal aborts it or the container ends. */
export async function follow(s: LogSource, signal: AbortSignal, lines: (some: LogLine[]) => void): Promise<void> {
  const q = new URLSearchParams({ container: s.container, tailLines: String(s.tail), timestamps: 'true' })
  s.previous ? q.set('previous', 'true') : q.set('follow', 'true')
  const r = await ask(`${pathOf('pods', s.namespace, s.pod)}/log?${q}`, { signal })
  const reader = r.body!.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done) break
    const parts = (rest + value).split('\n')
    rest = parts.pop()!.slice(-maxLine)
    if (parts.length) lines(parts.map(p => parseLine(p.slice(0, maxLine))))
  }
  if (rest) lines([parseLine(rest)])
}

const maxLine = 16_384

/** A line that a program wrote as JSON, for people: what it says, and its fields. */
export interface Structured { says: string; level: string; fields: [string, string][] }

const told = ['msg', 'message', 'log', 'event'], times = /^(time|ts|timestamp|@timestamp|t)$/, levels = /^(level|lvl|severity|log\.level)$/

/** Reads a line as JSON; null when it is another one, which is shown as it is. The time and the level are said beside it; what has parts is left out. */
export function structured(text: string): Structured | null {
  if (!text.startsWith('{') || !text.endsWith('}')) return null
  let o: Record<string, unknown>
  try { o = JSON.parse(text) } catch { return null }
  const key = told.find(k => typeof o[k] === 'string')
  if (!key) return null
  const word = (v: unknown) => { const t = typeof v === 'string' ? v : JSON.stringify(v); return /^[^\s"=]*$/.test(t) ? t || '""' : typeof v === 'string' ? JSON.stringify(v) : t }
  return {
    says: o[key] as string, level: String(Object.entries(o).find(([k]) => levels.test(k))?.[1] ?? '').toLowerCase(),
    fields: Object.entries(o).filter(([k, v]) => k !== key && !times.test(k) && !levels.test(k) && v !== '' && v !== null && typeof v !== 'object').map(([k, v]) => [k, word(v)]),
  }
}
