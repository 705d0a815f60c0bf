// What is not as usual, at /anomalies/ (services/anomaly).

import { routePlural, type RouteKind } from './gateway'
import { quote } from './prom'
import { pathTo, withQuery } from './router'
import { askJSON } from './session'

export interface Cause { kind: string; time: string; namespace: string; object: string; message: string; by?: string; weight: number }
export interface Anomaly {
  namespace: string; kind: string; name: string; signal: string; unit: string; start: string; end?: string
  value: number; expected: number; deviation: number; score: number; causes?: Cause[]
}
interface Answer { anomalies: Anomaly[]; watched: number; known: number }

/** The anomalies of the last hours; none where nobody looks for them. */
export const anomalies = async (hours: number, signal?: AbortSignal): Promise<Answer> =>
  askJSON<Answer>(`/anomalies/api/v1/anomalies?start=${encodeURIComponent(new Date(Date.now() - hours * 3_600_000).toISOString())}`, { signal })

export const idOf = (a: Anomaly) => [a.namespace, a.kind, a.name, a.signal, a.start].join('/')

/** The page of whose signal it is. */
export const subjectPage = (a: Anomaly) => a.kind in routePlural ? pathTo('gateway', routePlural[a.kind as RouteKind], a.namespace, a.name) : pathTo('workloads', a.namespace, a.kind.toLowerCase(), a.name)

/** The graph of the signal between what was to be expected, and where an anomaly begins. */
export function graphOf(a: Anomaly): string {
  const of = `{namespace=${quote(a.namespace)},kind=${quote(a.kind)},workload=${quote(a.name)},signal=${quote(a.signal)}}`
  return withQuery('/graph', { expr: `gantry_signal${of} or gantry_signal_expected${of} or label_replace(gantry_signal_expected${of} + 6 * gantry_signal_deviation${of}, "bound", "upper", "", "")` })
}

/** A value with its unit, for people. */
export function amount(v: number, unit: string): string {
  if (unit === 'bytes') return `${Math.round(v / 2 ** 20)} MiB`
  if (unit === 'seconds') return `${Math.round(v * 1000)} ms`
  return `${Number(v.toPrecision(3))} ${unit}`
}
