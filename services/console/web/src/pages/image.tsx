// One image: from where it comes, who vouches for it, what is in it, what is wrong with it, and where it runs.

import { useMemo } from 'preact/hooks'
import type { ComponentChildren } from 'preact'
import type { PageProps } from '../pages'
import { Link, pathTo } from '../router'
import { useKind } from '../kube/paths'
import { usePods } from '../lists'
import { usePolled } from '../prom'
import { bytes, plural } from '../format'
import { healthOfBuild, type Build } from '../builds'
import { bases, digestOf, image, isImage, pageOfImage, running, severities, shortDigest, signatureOf, statementName, useImages, type Details, type Finding, type Running } from '../images'
import { Age, Empty, Meter, PageHead, Panel, Status } from '../ui/parts'
import { Severities } from '../ui/severities'
import { Table, type Column } from '../ui/table'
import { Icon, type IconName } from '../ui/icons'
import '../style/images.css'

export default function ImagePage({ params: { name } }: PageProps) {
  const polled = usePolled(signal => image(name, signal), 30, [name]), i = polled.value
  const above = <Link to="/images">Images</Link>
  if (!i) return <><PageHead title={name.split('@')[0]} above={above} />{polled.error ? <Panel><Empty icon="images" title="Nothing is known of this image">{polled.error}</Empty></Panel> : <Panel><div class="skeleton" aria-hidden="true"><i /><i /><i /></div></Panel>}</>
  return <Shown i={i} />
}

function Shown({ i }: { i: Details }) {
  const { pods, byUID } = usePods(''), builds = useKind<Build>('builds', ''), sign = signatureOf(i)
  const build = useMemo(() => builds.items.find(b => b.status?.images?.some(x => isImage(i, digestOf(x.reference)))), [builds.items, i])
  const runs = useMemo(() => running(pods.items, byUID).filter(r => isImage(i, r.digest)), [pods.items, byUID, i])
  const count = runs.reduce((n, r) => n + r.pods.length, 0)
  return <>
    <PageHead title={`${i.repository}:${i.tags?.[0] ?? shortDigest(i.digest)}`} above={<><Link to="/images">Images</Link>{i.tags && i.tags.length > 1 && ` · also ${i.tags.slice(1).join(', ')}`}</>}
      says={<><Status health={sign.health}>{sign.why}</Status> <code class="anywhere" title={i.digest}>{shortDigest(i.digest)}</code></>} />
    <dl class="figures">
      <div><dt>Vulnerabilities</dt><dd>{i.scan ? severities.reduce((n, s) => n + i.scan![s], 0) : '–'}{i.scan && i.scan.fixable > 0 && <small> · {i.scan.fixable} fixable</small>}</dd><dd><Severities scan={i.scan} /></dd></div>
      <div><dt>Runs in</dt><dd>{count}<small> {count === 1 ? 'pod' : 'pods'}</small></dd><dd class="faint">{plural(new Set(runs.flatMap(r => r.users.map(u => u.key))).size, 'workload')}</dd></div>
      <div><dt>Size</dt><dd>{bytes(i.sizeBytes)}</dd><dd class="faint">{plural(i.layers.length, 'layer')}, compressed</dd></div>
      <div><dt>Packages</dt><dd>{i.packages || '–'}</dd><dd class="faint">{i.sbom ? 'listed in an SBOM' : 'no SBOM'}</dd></div>
      <div><dt>Made</dt><dd>{i.created && Date.parse(i.created) > 0 ? <Age at={i.created} /> : '–'}<small> ago</small></dd><dd class="faint">{i.platform}</dd></div>
    </dl>
    <Lineage i={i} build={build} runs={runs} />
    <Findings i={i} />
    {i.faultsFound && i.faultsFound.length > 0 && <Panel title="Other findings" aside={<span class="faint">{i.faultsFound.length}</span>}><ul class="rows">{i.faultsFound.slice(0, 50).map((f, n) => <li key={n}>
      <span class={`sev ${f.severity}`}>{f.severity}</span><div><b>{f.message}</b>{f.fix && <p class="faint wrap">{f.fix}</p>}</div><span class="faint anywhere">{f.path}</span></li>)}</ul></Panel>}
    <div class="columns">
      <Layers i={i} />
      <div class="stack"><Statements i={i} /><About i={i} /></div>
    </div>
  </>
}

function Step({ icon, kind, children, to, mine }: { icon: IconName; kind: string; children: ComponentChildren; to?: string; mine?: boolean }) {
  const body = <><Icon name={icon} /><span><small><bdi>{kind}</bdi></small><b>{children}</b></span></>
  return <li class={mine ? 'mine' : ''} aria-current={mine ? 'true' : undefined}>{to ? <Link to={to}>{body}</Link> : <span>{body}</span>}</li>
}

/** From base image and commit over the build to what runs, as a chain. */
function Lineage({ i, build, runs }: { i: Details; build?: Build; runs: Running[] }) {
  const all = useImages().value?.images ?? [], below = bases(i, all), p = i.provenance, commit = build?.status?.commit, id = commit?.id ?? p?.commit
  const users = runs.flatMap(r => r.users).filter((u, n, list) => list.findIndex(o => o.key === u.key) === n)
  return <Panel title="Lineage" class="lineage">
    <ol>
      {below.map(b => <Step key={b.digest + b.repository} icon="images" kind="Base image" to={pageOfImage(b.repository, b.digest)}>{b.repository}:{b.tag ?? shortDigest(b.digest)}</Step>)}
      {!below.length && <Step icon="images" kind="Base image">{i.declaredBase || 'none that the registry has'}</Step>}
      {id && <Step icon="dot" kind={`Commit${commit?.author ? ` by ${commit.author}` : ''}`}><code>{id.slice(0, 7)}</code> {commit?.message ?? p?.source?.split('/').at(-1)}</Step>}
      {build ? <Step icon="builds" kind="Build" to={pathTo('builds', build.metadata.namespace!, build.metadata.name)}><Status health={healthOfBuild(build)}>{build.spec.pipeline} #{build.spec.number}</Status></Step>
        : p?.build ? <Step icon="builds" kind="Build">{p.build}</Step> : <Step icon="builds" kind="Build">by hand, or elsewhere</Step>}
      <Step icon="images" kind="This image" mine>{i.repository}:{i.tags?.[0] ?? shortDigest(i.digest)}</Step>
      {users.slice(0, 3).map(u => <Step key={u.key} icon="workloads" kind={`Runs in ${u.namespace}`} to={u.to}>{u.name}</Step>)}
      {users.length > 3 && <Step icon="workloads" kind="and in" to={`/pods`}>{users.length - 3} more</Step>}
      {!users.length && <Step icon="workloads" kind="Runs in">nothing now</Step>}
    </ol>
    {i.derived && i.derived.length > 0 && <p class="body derived"><span class="faint">Built on it:</span> {i.derived.slice(0, 12).map(d => <Link key={d.repository + d.digest} to={pageOfImage(d.repository, d.digest)}>{d.repository}:{d.tag ?? shortDigest(d.digest)}</Link>)}{i.derived.length > 12 && <span class="faint">and {i.derived.length - 12} more</span>}</p>}
  </Panel>
}

const rank = (s: string) => { const n = (severities as readonly string[]).indexOf(s); return n < 0 ? 3.5 : n }
const columns: Column<Finding>[] = [
  { key: 'id', title: 'Advisory', by: f => f.id, cell: f => <>{f.url?.startsWith('https://') ? <a href={f.url} target="_blank" rel="noreferrer noopener" class="name">{f.id}</a> : <span class="name">{f.id}</span>}{f.summary && <><br /><span class="faint clamp">{f.summary}</span></>}</> },
  { key: 'severity', title: 'Severity', by: f => rank(f.severity) - (f.score ?? 0) / 100, cell: f => <span class={`sev ${f.severity}`}>{f.severity}{f.score ? ` ${f.score.toFixed(1)}` : ''}</span> },
  { key: 'package', title: 'Package', by: f => f.package, cell: f => <span class="anywhere" title={f.path}><bdi>{f.package}</bdi> <span class="faint"><bdi>{f.installed}</bdi></span></span> },
  { key: 'fixed', title: 'Fixed in', by: f => f.fixed ? 0 : 1, cell: f => f.fixed ? <b>{f.fixed}</b> : <span class="faint">not yet</span> },
]

function Findings({ i }: { i: Details }) {
  if (!i.scan) return <Panel title="Vulnerabilities"><Empty icon="audit" title="Not scanned yet">Images are scanned when they are pushed, as soon as there is a database: <code>gantry scan db import FILE</code>.</Empty></Panel>
  return <Panel title="Vulnerabilities" aside={<span class="faint">scanned <Age at={i.scan.finished} /> ago</span>}>
    <Table label="Vulnerabilities" rows={i.findings ?? []} columns={columns} id={f => f.id + f.package + f.installed + f.path} sort="severity" text={i.findings && i.findings.length > 8 ? f => `${f.id} ${f.package} ${f.severity} ${f.summary ?? ''} ${f.fixed ? 'fixed' : ''}` : undefined}
      empty={<Empty icon="check" title="No known vulnerability">None of its packages is named by an advisory in the database.</Empty>} />
  </Panel>
}

function Layers({ i }: { i: Details }) {
  const most = Math.max(...i.layers.map(l => l.sizeBytes), 1), from = i.base?.layers ?? 0
  return <Panel title="Layers" aside={<span class="faint">{plural(i.layers.length, 'layer')}, the lowest first</span>}>
    <ul class="rows layers">{i.layers.map((l, n) => <li key={n}><span class="faint">{n + 1}</span>
      <div><span class="mono anywhere clamp" title={l.createdBy}>{l.createdBy || shortDigest(l.digest)}</span>{n < from && <p class="faint">of {i.base!.repository}</p>}<Meter label={`Size of layer ${n + 1}`} value={l.sizeBytes} max={most} plain /></div>
      <span class="faint">{bytes(l.sizeBytes)}</span></li>)}</ul>
  </Panel>
}

function Statements({ i }: { i: Details }) {
  const list = i.attached ?? []
  return <Panel title="Statements about it" aside={<span class="faint">{list.length}</span>}>
    {list.length === 0 ? <Empty icon="audit" title="Nobody vouches for it"><code>gantry sign</code> and <code>gantry attest</code> do, and cosign.</Empty>
      : <ul class="rows">{list.map((a, n) => <li key={n}><Status health={a.key ? 'ok' : 'busy'}><span class="hidden">{a.key ? 'verified' : 'unknown'}</span></Status><b class="anywhere">{statementName(a.type)}</b><span class="faint">{a.key ? a.key === 'instance' ? 'this installation' : a.key : 'unknown key'}</span></li>)}
        {i.rejected?.map(why => <li key={why}><Status health="bad"><span class="hidden">cannot be used</span></Status><span class="faint anywhere">{why}</span><span /></li>)}</ul>}
  </Panel>
}

function About({ i }: { i: Details }) {
  return <Panel title="About"><dl class="facts-list">
    <div><dt>Digest</dt><dd class="mono anywhere">{i.digest}</dd></div>
    {i.provenance?.source && <div><dt>Source</dt><dd class="anywhere">{i.provenance.source}</dd></div>}
    <div><dt>Runs as</dt><dd>{i.user || <span class="warning">root</span>}</dd></div>
    {i.command && i.command.length > 0 && <div><dt>Command</dt><dd class="mono anywhere">{i.command.join(' ')}</dd></div>}
    {i.ports && <div><dt>Ports</dt><dd>{i.ports.join(', ')}</dd></div>}
    {i.labels && <div><dt>Labels</dt><dd>{Object.entries(i.labels).slice(0, 20).map(([k, v]) => <code key={k}>{k}={v.slice(0, 80)}</code>)}</dd></div>}
  </dl></Panel>
}
