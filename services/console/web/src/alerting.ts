// Alerts and silences, at Alertmanager's HTTP API (version 2).

import { askJSON, send } from './session'
import { pathTo } from './router'
import type { Problem } from './health'
import type { Health } from './workloads'

export interface Alert {
  fingerprint: string; labels: Record<string, string>; annotations: Record<string, string>; startsAt: string; endsAt: string; updatedAt?: string
  status: { state: 'active' | 'suppressed' | 'unprocessed'; silencedBy: string[]; inhibitedBy: string[] }
}
export interface Matcher { name: string; value: string; isRegex: boolean; isEqual: boolean }
export interface Silence { id: string; status: { state: 'active' | 'pending' | 'expired' }; matchers: Matcher[]; startsAt: string; endsAt: string; createdBy: string; comment: string }

export const alerts = async (signal?: AbortSignal) => (await askJSON<Alert[]>('/alertmanager/api/v2/alerts', { signal })).filter(a => a.labels.severity !== 'none')
export const silences = (signal?: AbortSignal) => askJSON<Silence[]>('/alertmanager/api/v2/silences', { signal })

/** Silences what has exactly these labels. */
export const silence = (labels: Record<string, string>, hours: number, by: string, comment: string) => send<{ silenceID: string }>('POST', '/alertmanager/api/v2/silences', {
  matchers: Object.entries(labels).map(([name, value]) => ({ name, value, isRegex: false, isEqual: true })),
  startsAt: new Date().toISOString(), endsAt: new Date(Date.now() + hours * 3_600_000).toISOString(), createdBy: by, comment,
})
export const endSilence = (id: string) => send('DELETE', `/alertmanager/api/v2/silence/${encodeURIComponent(id)}`, {}).catch(e => { if (!(e instanceof SyntaxError)) throw e })

const order = ['critical', 'warning', 'info']
export const severityRank = (a: Alert) => { const i = order.indexOf(a.labels.severity); return i < 0 ? order.length : i }
export const healthOf = (a: Alert): Health => a.status.state === 'suppressed' ? 'idle' : a.labels.severity === 'critical' ? 'bad' : a.labels.severity === 'warning' ? 'busy' : 'idle'
export const stateOf = (a: Alert) => a.status.silencedBy.length ? 'Silenced' : a.status.inhibitedBy.length ? 'Part of another' : a.labels.severity ?? 'firing'

/** A path of the console in an annotation; anything else is no link. */
export function ownLink(annotation: string | undefined): string | undefined {
  return annotation?.startsWith('/console/') && !/[\s\\]/.test(annotation) ? annotation.slice('/console'.length) : undefined
}

export const matched = (m: Matcher) => `${m.name}${m.isEqual === false ? (m.isRegex ? '!~' : '!=') : m.isRegex ? '=~' : '='}"${m.value}"`

/** What fires and is worth a place beside what objects tell: not silenced, more than an information, and not of what is told already. */
export const firing = (list: Alert[], namespace: string, told: Problem[]): Problem[] => list
  .filter(a => a.status.state !== 'suppressed' && ['critical', 'warning'].includes(a.labels.severity ?? '') && (!namespace || !a.labels.namespace || a.labels.namespace === namespace))
  .filter(a => { const of = `${a.labels.namespace}/${a.labels.pod ?? a.labels.deployment ?? a.labels.statefulset ?? a.labels.daemonset}`; return !told.some(p => of === p.object || of.startsWith(p.object + '-')) })
  .sort((a, b) => severityRank(a) - severityRank(b))
  .map(a => ({
    key: `alert/${a.fingerprint}`, severity: a.labels.severity as Problem['severity'], object: a.labels.alertname ?? 'alert',
    what: a.annotations.summary ?? '', since: Date.parse(a.startsAt), to: pathTo('alerts', a.fingerprint),
  }))
