// Images that run here: what runs from them, how they were built, and what is said about them.

import { useMemo } from 'preact/hooks'
import { Link, pathTo } from '../router'
import { useKind } from '../kube/paths'
import type { Pod } from '../kube/types'
import { usePods } from '../lists'
import { kindInPath, ownerOf } from '../workloads'
import { imageName } from '../format'
import type { Build, BuiltImage } from '../builds'
import { Empty, loading, PageHead, Status, Trouble } from '../ui/parts'
import { Table, type Column } from '../ui/table'

interface Row { id: string; name: string; tag: string; digest: string; pods: Pod[]; users: { key: string; name: string; to: string }[]; built?: { build: Build; image: BuiltImage } }

export const digestOf = (ref: string) => /sha256:[0-9a-f]{64}/.exec(ref)?.[0] ?? ''

const columns: Column<Row>[] = [
  { key: 'image', title: 'Image', cell: r => <span class="name" title={r.id}>{r.name}<span class="faint">:{r.tag}</span></span>, by: r => r.name + r.tag },
  { key: 'signed', title: 'Signature', cell: r => r.built ? <Status health={r.built.image.signed ? 'ok' : 'bad'}>{r.built.image.signed ? 'Signed' : 'Not signed'}</Status> : <span class="faint">–</span>, by: r => r.built ? Number(r.built.image.signed ?? false) : 2 },
  { key: 'scan', title: 'Vulnerabilities', cell: r => r.built?.image.scan ? <span class={/critical|high/i.test(r.built.image.scan) ? 'critical' : ''}>{r.built.image.scan}</span> : <span class="faint">–</span>, by: r => r.built?.image.scan ?? '', wide: true },
  { key: 'build', title: 'Built by', cell: r => r.built ? <Link to={pathTo('builds', r.built.build.metadata.namespace!, r.built.build.metadata.name)}>{r.built.build.spec.pipeline} #{r.built.build.spec.number}</Link> : <span class="faint">–</span>, by: r => r.built?.build.metadata.name ?? '', wide: true },
  { key: 'users', title: 'Used by', cell: r => <>{r.users.slice(0, 3).map((u, i) => <span key={u.key}>{i > 0 && ', '}<Link to={u.to}>{u.name}</Link></span>)}{r.users.length > 3 && ` and ${r.users.length - 3} more`}</>, by: r => r.users.length },
  { key: 'pods', title: 'Pods', cell: r => r.pods.length, by: r => r.pods.length, right: true },
]

export default function ImagesPage() {
  const { pods, sets, byUID } = usePods(), builds = useKind<Build>('builds')
  const rows = useMemo<Row[]>(() => {
    const built = new Map<string, { build: Build; image: BuiltImage }>()
    for (const build of builds.items) for (const image of build.status?.images ?? []) built.set(digestOf(image.reference), { build, image })
    const found = new Map<string, Row>()
    for (const p of pods.items) for (const s of [...p.status.initContainerStatuses ?? [], ...p.status.containerStatuses ?? []]) {
      const asked = [...p.spec.containers, ...p.spec.initContainers ?? []].find(c => c.name === s.name)?.image ?? s.image
      const digest = digestOf((s as { imageID?: string }).imageID ?? '') || digestOf(asked), at = asked.split('@')[0].replace(/:[^/:]*$/, ''), id = digest ? `${at}@${digest}` : asked
      let row = found.get(id)
      if (!row) found.set(id, row = { id, ...imageName(asked), digest, pods: [], users: [], built: built.get(digest) })
      if (row.pods.at(-1) !== p) row.pods.push(p)
      const owner = ownerOf(p, byUID), ns = p.metadata.namespace!, key = `${ns}/${owner?.name ?? p.metadata.name}`
      if (!row.users.some(u => u.key === key)) row.users.push({
        key, name: owner?.name ?? p.metadata.name, to: owner && ['Deployment', 'StatefulSet', 'DaemonSet', 'Job'].includes(owner.kind) ? pathTo('workloads', ns, kindInPath(owner.kind), owner.name) : pathTo('pods', ns, p.metadata.name),
      })
    }
    return [...found.values()]
  }, [pods.items, sets.items, builds.items])
  return <>
    <PageHead title="Images" says="What containers run from." />
    <Trouble of={[pods]} />
    <Table label="Images" rows={rows} columns={columns} id={r => r.id} sort="image" text={r => `${r.id} ${r.users.map(u => u.key).join(' ')}`} loading={loading(pods)} empty={<Empty icon="images" title="No container runs">An image appears when a pod uses it.</Empty>} />
  </>
}
