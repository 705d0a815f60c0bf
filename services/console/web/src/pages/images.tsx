// Images: what the registry has and what runs, how it was made, who vouches for it, and what is wrong with it.

import { useMemo } from 'preact/hooks'
import { choose, Link, pathTo, usePlace } from '../router'
import { useKind, useNamespace } from '../kube/paths'
import { usePods } from '../lists'
import { bytes, imageName } from '../format'
import type { Build } from '../builds'
import { digestOf, isImage, pageOfImage, running, shortDigest, signatureOf, useImages, weight, type Image, type Running } from '../images'
import { Age, Empty, loading, PageHead, Panel, Status, Trouble } from '../ui/parts'
import { Severities } from '../ui/severities'
import { Table, type Column } from '../ui/table'
import '../style/images.css'

interface Row { id: string; repository: string; tags: string; known?: Image; runs?: Running; build?: Build }

const none = <span class="faint">–</span>

const columns: Column<Row>[] = [
  { key: 'image', title: 'Image', by: r => r.repository + r.tags, cell: r => <><Name r={r} />{r.known?.base && <><br /><span class="faint">on {r.known.base.repository}:{r.known.base.tag ?? shortDigest(r.known.base.digest)}</span></>}</> },
  { key: 'scan', title: 'Vulnerabilities', by: r => -weight(r.known?.scan), cell: r => <Severities scan={r.known?.scan} /> },
  { key: 'signed', title: 'Signature', wide: true, by: r => r.known ? Number(!r.known.signedBy?.length) : 2, cell: r => { if (!r.known) return none; const s = signatureOf(r.known); return <span title={s.why}><Status health={s.health}>{s.says}</Status></span> } },
  { key: 'build', title: 'Made by', wide: true, by: r => r.build?.metadata.name ?? r.known?.provenance?.build ?? '', cell: r => r.build ? <><Link to={pathTo('builds', r.build.metadata.namespace!, r.build.metadata.name)}>{r.build.spec.pipeline} #{r.build.spec.number}</Link> {r.build.status?.commit && <code>{r.build.status.commit.short ?? r.build.status.commit.id.slice(0, 7)}</code>}</> : r.known?.provenance?.commit ? <code>{r.known.provenance.commit.slice(0, 7)}</code> : none },
  { key: 'users', title: 'Runs in', by: r => -(r.runs?.pods.length ?? 0), cell: r => !r.runs ? <span class="faint">nothing</span> : <>{r.runs.users.slice(0, 2).map((u, i) => <span key={u.key}>{i > 0 && ', '}<Link to={u.to}>{u.name}</Link></span>)}{r.runs.users.length > 2 && ` and ${r.runs.users.length - 2} more`}{r.runs.pods.length > 1 && <span class="faint"> ×{r.runs.pods.length}</span>}</> },
  { key: 'size', title: 'Size', right: true, wide: true, by: r => -(r.known?.sizeBytes ?? -1), cell: r => r.known ? bytes(r.known.sizeBytes) : none },
  { key: 'age', title: 'Age', right: true, by: r => -(r.known?.created ? Date.parse(r.known.created) : 0), cell: r => r.known?.created && Date.parse(r.known.created) > 0 ? <Age at={r.known.created} /> : none },
]

function Name({ r }: { r: Row }) {
  const text = <>{r.repository}<span class="faint">:{r.tags}</span></>
  return r.known ? <Link to={pageOfImage(r.known.repository, r.known.digest)} class="name">{text}</Link> : <span class="name" title={r.runs?.ref}>{text}</span>
}

export default function ImagesPage() {
  const namespace = useNamespace(), { pods, byUID } = usePods(), builds = useKind<Build>('builds'), registry = useImages(), only = usePlace().query.get('only') === 'running'
  const rows = useMemo<Row[]>(() => {
    const built = new Map<string, Build>()
    for (const b of builds.items) for (const i of b.status?.images ?? []) built.set(digestOf(i.reference), b)
    const runs = running(pods.items, byUID), taken = new Set<Running>()
    const list = (registry.value?.images ?? []).filter(i => !namespace || i.repository.startsWith(namespace + '/') || runs.some(r => isImage(i, r.digest))).map<Row>(known => {
      const mine = runs.filter(r => isImage(known, r.digest) && (imageName(r.ref).name === known.repository || !registry.value!.images.some(o => o !== known && o.repository === imageName(r.ref).name && isImage(o, r.digest))))
      mine.forEach(r => taken.add(r))
      return {
        id: `${known.repository}@${known.digest}`, repository: known.repository, tags: known.tags?.join(', ') || shortDigest(known.digest), known, build: built.get(known.digest) ?? built.get(known.manifest ?? ''),
        runs: mine.length ? { ...mine[0], pods: mine.flatMap(r => r.pods), users: mine.flatMap(r => r.users).filter((u, i, all) => all.findIndex(o => o.key === u.key) === i) } : undefined,
      }
    })
    for (const r of runs) if (!taken.has(r)) { const { name, tag } = imageName(r.ref); list.push({ id: `${r.ref} ${r.digest}`, repository: name, tags: tag, runs: r, build: built.get(r.digest) }) }
    return only ? list.filter(r => r.runs) : list
  }, [pods.items, byUID, builds.items, registry.value, namespace, only])
  const scanned = rows.filter(r => r.runs && r.known?.scan), bad = scanned.filter(r => r.known!.scan!.critical > 0).length
  return <>
    <PageHead title="Images" says={rows.length === 0 ? undefined : bad ? <Status health="bad">{bad} of {rows.filter(r => r.runs).length} that run have critical vulnerabilities</Status>
      : scanned.length ? <Status health="ok">None that runs has a critical vulnerability</Status> : <span class="faint">{registry.value ? <>Not scanned yet: <code>gantry scan db import</code> brings the database of vulnerabilities.</> : 'What containers run from.'}</span>} />
    <Trouble of={[pods]} />
    {registry.error && !registry.value && <p class="faint">What the registry knows is missing: {registry.error}</p>}
    {registry.value?.complete === false && <p class="faint">Only the first {registry.value.images.length} images are shown.</p>}
    {loading(pods) || rows.length || only ? <Table label="Images" rows={rows} columns={columns} id={r => r.id} sort="image" text={r => `${r.id} ${r.tags} ${r.known?.base?.repository ?? ''} ${r.runs?.users.map(u => u.key).join(' ') ?? ''}`} loading={loading(pods)}
      tools={<label class="check"><input type="checkbox" checked={only} onChange={e => choose('only', e.currentTarget.checked ? 'running' : '')} />Only what runs</label>}
      empty={<Empty icon="images" title="Nothing runs from an image">Untick “Only what runs” to see the registry.</Empty>} />
      : <Panel><Empty icon="images" title="There are no images yet"><code>gantry build -t NAME PATH</code>, <code>docker push</code> or <code>gantry up PATH</code> bring some.</Empty></Panel>}
  </>
}
