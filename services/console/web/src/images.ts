// What is known of images in the registry, at /images/ (services/images), and what runs from them.

import { imageName } from './format'
import { pathTo } from './router'
import { askJSON } from './session'
import { usePolled } from './prom'
import type { Pod, ReplicaSet } from './kube/types'
import { kindInPath, ownerOf, type Health } from './workloads'

export const severities = ['critical', 'high', 'medium', 'low', 'unknown'] as const
export type Severity = typeof severities[number]
export interface Scan extends Record<Severity, number> { fixable: number; secrets: number; faults: number; finished: string; scanner: string; database?: string }
export interface BaseImage { repository: string; tag?: string; digest: string; layers: number }
export interface Image {
  repository: string; tags?: string[]; digest: string; manifest?: string; platform?: string; created?: string; sizeBytes: number
  base?: BaseImage; declaredBase?: string; signedBy?: string[]; unknownSignatures?: number; sbom?: boolean; scan?: Scan
  provenance?: { source?: string; commit?: string; build?: string; builder?: string }
}
export interface Finding { id: string; severity: string; score?: number; summary?: string; package: string; installed: string; fixed?: string; path?: string; url?: string }
export interface Fault { rule: string; severity: string; message: string; fix?: string; path?: string }
export interface Details extends Image {
  layers: { digest: string; sizeBytes: number; createdBy?: string; created?: string }[]
  user?: string; command?: string[]; ports?: string[]; labels?: Record<string, string>
  attached?: { type: string; key?: string }[]; findings?: Finding[]; faultsFound?: Fault[]; packages?: number; rejected?: string[]; derived?: BaseImage[]
}
interface List { registry: string; images: Image[]; complete: boolean }

/** All images of the registry that the person may pull. */
export const useImages = () => usePolled(signal => askJSON<List>('/images/api/v1/images', { signal }), 20, [])
export const image = (name: string, signal?: AbortSignal) => askJSON<Details>(`/images/api/v1/image?name=${encodeURIComponent(name)}`, { signal })

export const digestOf = (ref: string) => /sha256:[0-9a-f]{64}/.exec(ref)?.[0] ?? ''
export const pageOfImage = (repository: string, digest: string) => pathTo('images', `${repository}@${digest}`)
export const shortDigest = (digest: string) => digest.replace(/^sha256:/, '').slice(0, 12)

/** What runs from one image: the pods, and the workloads that they belong to. */
export interface Running { ref: string; digest: string; pods: Pod[]; users: { key: string; name: string; namespace: string; to: string }[] }

/** What pods run from, each image once: by digest as far as the node has told it. */
export function running(pods: Pod[], sets: Map<string, ReplicaSet>): Running[] {
  const found = new Map<string, Running>()
  for (const p of pods) for (const s of [...p.status.initContainerStatuses ?? [], ...p.status.containerStatuses ?? []]) {
    const asked = [...p.spec.containers, ...p.spec.initContainers ?? []].find(c => c.name === s.name)?.image ?? s.image
    const digest = digestOf((s as { imageID?: string }).imageID ?? '') || digestOf(asked), id = `${imageName(asked).name}@${digest || asked}`
    let r = found.get(id)
    if (!r) found.set(id, r = { ref: asked, digest, pods: [], users: [] })
    if (r.pods.at(-1) !== p) r.pods.push(p)
    const owner = ownerOf(p, sets), namespace = p.metadata.namespace!, name = owner?.name ?? p.metadata.name, key = `${namespace}/${name}`
    if (!r.users.some(u => u.key === key)) r.users.push({
      key, name, namespace, to: owner && ['Deployment', 'StatefulSet', 'DaemonSet', 'Job'].includes(owner.kind) ? pathTo('workloads', namespace, kindInPath(owner.kind), owner.name) : pathTo('pods', namespace, p.metadata.name),
    })
  }
  return [...found.values()]
}

/** Whether what runs is this image: the registry's digest, or that of the image for this machine in it. */
export const isImage = (i: Pick<Image, 'digest' | 'manifest'>, digest: string) => digest !== '' && (i.digest === digest || i.manifest === digest)

/** How bad the findings are, as one number to sort by; -1 is not scanned. */
export const weight = (s: Scan | undefined) => s ? s.critical * 1e9 + s.high * 1e6 + s.medium * 1e3 + s.low + s.unknown : -1

export function signatureOf(i: Image): { health: Health; says: string; why: string } {
  const by = i.signedBy ?? [], others = i.unknownSignatures ?? 0
  if (by.length) return { health: 'ok', says: by.includes('instance') ? 'Signed' : `Signed by ${by[0]}`, why: `Signed by ${by.map(k => k === 'instance' ? 'this installation' : `the key ${k}`).join(' and ')}` }
  return others ? { health: 'busy', says: 'Unknown key', why: 'Signed by a key that neither this installation nor a TrustPolicy knows' } : { health: 'idle', says: 'Not signed', why: 'Nobody has signed it: gantry sign' }
}

/** Types of statements in words (in-toto predicate types). */
export function statementName(type: string): string {
  const known: Record<string, string> = {
    'https://sigstore.dev/cosign/sign/v1': 'Signature', 'https://slsa.dev/provenance/v1': 'Provenance (SLSA)', 'https://cosign.sigstore.dev/attestation/vuln/v1': 'Scan for vulnerabilities',
    'https://spdx.dev/Document': 'List of packages (SPDX)', 'https://cyclonedx.org/bom': 'List of packages (CycloneDX)',
  }
  return known[type] ?? type
}

/** The bases of an image, the lowest first, as far as they are known. */
export function bases(i: Image, all: Image[]): BaseImage[] {
  const chain: BaseImage[] = []
  for (let b = i.base; b && chain.length < 10 && !chain.some(c => c.digest === b!.digest && c.repository === b!.repository);) {
    chain.unshift(b)
    const of = all.find(x => x.repository === b!.repository && x.digest === b!.digest)
    b = of?.base
  }
  return chain
}
