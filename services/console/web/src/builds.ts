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
export const steps = ['Fetching', 'Building', 'Testing', 'Deploying'] as const
