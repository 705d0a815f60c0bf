// Builds and what came out of them, as the API has them (api/v1alpha1).

import type { Resource } from './kube/types'
import type { Health } from './workloads'

export interface BuiltImage { name: string; reference: string; tag?: string; signed?: boolean; signMessage?: string; provenance?: boolean; sbom?: boolean; scan?: string }
export interface Build extends Resource {
  spec: { pipeline: string; number: number; trigger?: string; commit?: string; redeploy?: number }
  status?: {
    phase?: string; reason?: string; message?: string; startTime?: string; completionTime?: string; durationSeconds?: number; attempts?: number
    commit?: { id: string; short?: string; author?: string; message?: string; time?: string }
    images?: BuiltImage[]; test?: { passed: boolean; message?: string; durationSeconds?: number }
    deployment?: { application?: string; namespace?: string; ready: boolean; urls?: string[]; rolledBackTo?: number; redeployed?: number }
  }
}

export const ended = (b: Build) => ['Succeeded', 'Failed', 'Cancelled'].includes(b.status?.phase ?? '')
export const healthOfBuild = (b: Build): Health => ({ Succeeded: 'ok', Failed: 'bad', Cancelled: 'idle' } as Record<string, Health>)[b.status?.phase ?? ''] ?? 'busy'
export const phases = ['Fetching', 'Building', 'Testing', 'Deploying'] as const

/** How far each phase of a build is; one that was never reached is none. */
export function phasesOf(b: Build): { name: string; is: 'done' | 'now' | 'failed' | ''; says: string }[] {
  const s = b.status ?? {}, over = ended(b), again = b.spec.redeploy !== undefined
  const failedIn = s.phase !== 'Failed' ? -1 : { FetchFailed: 0, BuildFailed: 1, DiskFull: 1, TestFailed: 2, DeployFailed: 3, RolledBack: 3 }[s.reason ?? ''] ?? (s.deployment ? 3 : s.test ? 2 : s.images?.length ? 1 : 0)
  const at = over ? s.phase === 'Succeeded' ? 4 : failedIn : phases.indexOf(s.phase as typeof phases[number])
  const says = [
    s.commit ? s.commit.short ?? s.commit.id.slice(0, 7) : again ? 'not needed' : '',
    s.images?.length ? `${s.images.length} ${s.images.length === 1 ? 'image' : 'images'}` : again ? 'not needed' : '',
    s.test ? s.test.passed ? 'passed' : 'failed' : at > 2 ? 'none' : '',
    s.deployment ? s.deployment.rolledBackTo ? `rolled back to #${s.deployment.rolledBackTo}` : s.deployment.namespace ?? '' : at > 3 ? 'none' : '',
  ]
  return phases.map((name, i) => ({ name, is: i === failedIn ? 'failed' : i < at ? 'done' : i === at && !over ? 'now' : '', says: says[i] }))
}

export interface PipelineRuns { key: string; namespace: string; pipeline: string; latest: Build; runs: Build[]; succeeded: number; over: number; median: number | null }

/** The latest builds of each pipeline, the oldest first. */
export function byPipeline(builds: Build[], most = 20): PipelineRuns[] {
  const found = new Map<string, Build[]>()
  for (const b of builds) { const key = `${b.metadata.namespace}/${b.spec.pipeline}`; found.set(key, [...found.get(key) ?? [], b]) }
  return [...found].map(([key, all]) => {
    const runs = all.sort((a, b) => a.spec.number - b.spec.number).slice(-most), over = runs.filter(b => ['Succeeded', 'Failed'].includes(b.status?.phase ?? ''))
    const took = over.flatMap(b => b.status?.durationSeconds ? [b.status.durationSeconds] : []).sort((a, b) => a - b)
    return { key, namespace: runs[0].metadata.namespace!, pipeline: runs[0].spec.pipeline, latest: runs.at(-1)!, runs, succeeded: over.filter(b => b.status?.phase === 'Succeeded').length, over: over.length, median: took.length ? took[Math.floor(took.length / 2)] : null }
  }).sort((a, b) => a.key.localeCompare(b.key))
}
