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
