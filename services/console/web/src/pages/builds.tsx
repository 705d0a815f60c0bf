// Builds of all pipelines, the latest first.

import { Link, pathTo } from '../router'
import { useKind } from '../kube/paths'
import { useMemo } from 'preact/hooks'
import { byPipeline, healthOfBuild, type Build } from '../builds'
import { Age, Empty, loading, PageHead, Panel, Status, Trouble } from '../ui/parts'
import { percent, span } from '../format'
import '../style/build.css'
import { Table, type Column } from '../ui/table'

const columns: Column<Build>[] = [
  { key: 'build', title: 'Build', cell: b => <Link to={pathTo('builds', b.metadata.namespace!, b.metadata.name)} class="name"><span class="faint">{b.metadata.namespace}/</span>{b.spec.pipeline} #{b.spec.number}</Link>, by: b => `${b.metadata.namespace}/${b.spec.pipeline}/${String(b.spec.number).padStart(9, '0')}` },
  { key: 'state', title: 'State', cell: b => <span title={b.status?.message}><Status health={healthOfBuild(b)}>{b.status?.reason ?? b.status?.phase ?? 'Pending'}</Status></span>, by: b => b.status?.phase ?? '' },
  { key: 'commit', title: 'Commit', cell: b => b.status?.commit ? <span class="commit line"><code>{b.status.commit.short ?? b.status.commit.id.slice(0, 7)}</code> <bdi>{b.status.commit.message}</bdi></span> : <span class="faint">{b.spec.redeploy ? `again #${b.spec.redeploy}` : '–'}</span>, wide: true },
  { key: 'out', title: 'Came out', cell: b => b.status?.images?.length ? <span title={b.status.images.map(i => i.reference).join('\n')}>{b.status.images.length} {b.status.images.length === 1 ? 'image' : 'images'}{b.status.images.some(i => !i.signed) && <span class="critical">, not signed</span>}{b.status.deployment?.namespace && <span class="faint"> in {b.status.deployment.namespace}</span>}</span> : <span class="faint">–</span>, wide: true },
  { key: 'took', title: 'Took', cell: b => b.status?.durationSeconds ? span(b.status.durationSeconds * 1000) : <span class="faint">–</span>, by: b => b.status?.durationSeconds ?? 0, right: true, wide: true },
  { key: 'age', title: 'Ago', cell: b => <Age at={b.metadata.creationTimestamp} />, by: b => -Date.parse(b.metadata.creationTimestamp), right: true },
]

export default function BuildsPage() {
  const builds = useKind<Build>('builds')
  return <>
    <PageHead title="Builds" says="What pipelines made of commits." />
    <Trouble of={[builds]} />
    {builds.items.length > 0 && <Pipelines builds={builds.items} />}
    <Table label="Builds" rows={builds.items} columns={columns} id={b => b.metadata.uid} sort="age" text={b => `${b.metadata.namespace}/${b.metadata.name} ${b.status?.commit?.id ?? ''} ${b.status?.commit?.message ?? ''} ${b.status?.phase ?? ''}`} loading={loading(builds)}
      empty={<Empty icon="builds" title="Nothing was built by a pipeline yet"><code>gantry pipeline create</code> makes one of a Git repository.</Empty>} />
  </>
}

/** Each pipeline with its latest builds as bars: how long each took, and how it ended. */
function Pipelines({ builds }: { builds: Build[] }) {
  const list = useMemo(() => byPipeline(builds), [builds])
  return <Panel title="Pipelines" aside={<span class="faint">{list.length}</span>}><ul class="rows pipelines">{list.slice(0, 12).map(p => {
    const top = Math.max(1, ...p.runs.map(b => b.status?.durationSeconds ?? 0))
    return <li key={p.key}><div><Link to={pathTo('builds', p.namespace, p.latest.metadata.name)} class="name"><span class="faint">{p.namespace}/</span>{p.pipeline}</Link><br /><Status health={healthOfBuild(p.latest)}>#{p.latest.spec.number} {p.latest.status?.reason ?? p.latest.status?.phase ?? 'Pending'}</Status></div>
      <svg class="runs" viewBox={`0 0 ${10 * p.runs.length} 28`} width={10 * p.runs.length} height="28" role="img" aria-label={`${p.succeeded} of the last ${p.over} builds of ${p.pipeline} succeeded`}>
        {p.runs.map((b, i) => { const h = 6 + 22 * (b.status?.durationSeconds ?? 0) / top
          return <rect key={b.metadata.uid} class={healthOfBuild(b)} x={10 * i} y={28 - h} width="7" height={h} rx="1"><title>{`#${b.spec.number} ${b.status?.phase ?? 'Pending'}${b.status?.durationSeconds ? `, ${span(b.status.durationSeconds * 1000)}` : ''}`}</title></rect> })}
      </svg>
      <span class="facts">{p.over > 0 && <span>{percent(p.succeeded / p.over)} succeed</span>}{p.median !== null && <span>{span(p.median * 1000)} usually</span>}</span></li>
  })}</ul></Panel>
}
