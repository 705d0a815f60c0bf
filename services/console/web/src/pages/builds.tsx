// Builds of all pipelines, the latest first.

import { Link, pathTo } from '../router'
import { useKind } from '../kube/paths'
import { healthOfBuild, type Build } from '../builds'
import { Age, Empty, loading, PageHead, Status, Trouble } from '../ui/parts'
import { span } from '../format'
import { Table, type Column } from '../ui/table'

const columns: Column<Build>[] = [
  { key: 'build', title: 'Build', cell: b => <Link to={pathTo('builds', b.metadata.namespace!, b.metadata.name)} class="name"><span class="faint">{b.metadata.namespace}/</span>{b.spec.pipeline} #{b.spec.number}</Link>, by: b => `${b.metadata.namespace}/${b.spec.pipeline}/${String(b.spec.number).padStart(9, '0')}` },
  { key: 'state', title: 'State', cell: b => <span title={b.status?.message}><Status health={healthOfBuild(b)}>{b.status?.reason ?? b.status?.phase ?? 'Pending'}</Status></span>, by: b => b.status?.phase ?? '' },
  { key: 'commit', title: 'Commit', cell: b => b.status?.commit ? <span class="commit line"><code>{b.status.commit.short ?? b.status.commit.id.slice(0, 7)}</code> <bdi>{b.status.commit.message}</bdi></span> : <span class="faint">{b.spec.redeploy ? `again #${b.spec.redeploy}` : '–'}</span>, wide: true },
  { key: 'took', title: 'Took', cell: b => b.status?.durationSeconds ? span(b.status.durationSeconds * 1000) : <span class="faint">–</span>, by: b => b.status?.durationSeconds ?? 0, right: true, wide: true },
  { key: 'age', title: 'Ago', cell: b => <Age at={b.metadata.creationTimestamp} />, by: b => -Date.parse(b.metadata.creationTimestamp), right: true },
]

export default function BuildsPage() {
  const builds = useKind<Build>('builds')
  return <>
    <PageHead title="Builds" says="What pipelines made of commits." />
    <Trouble of={[builds]} />
    <Table label="Builds" rows={builds.items} columns={columns} id={b => b.metadata.uid} sort="age" text={b => `${b.metadata.namespace}/${b.metadata.name} ${b.status?.commit?.id ?? ''} ${b.status?.commit?.message ?? ''} ${b.status?.phase ?? ''}`} loading={loading(builds)}
      empty={<Empty icon="builds" title="Nothing was built by a pipeline yet"><code>gantry pipeline create</code> makes one of a Git repository.</Empty>} />
  </>
}
