// Volumes: how full they are, and which pods use them.

import { useMemo } from 'preact/hooks'
import { Link, pathTo } from '../router'
import { useKind, useNamespace } from '../kube/paths'
import type { Claim, Pod } from '../kube/types'
import { quote, useQuery, type Sample } from '../prom'
import { bytes, percent, quantity } from '../format'
import { Age, Empty, loading, Meter, PageHead, Status, Trouble } from '../ui/parts'
import { Chart } from '../ui/chart'
import { Table, type Column } from '../ui/table'

type MountingPod = Pod & { spec: { volumes?: { persistentVolumeClaim?: { claimName: string } }[] } }
interface Row { id: string; claim: Claim; phase: string; size: number | null; used: number | null; fullIn: number | null; pods: MountingPod[] }

const columns: Column<Row>[] = [
  { key: 'claim', title: 'Claim', cell: r => <span class="name"><span class="faint">{r.claim.metadata.namespace}/</span>{r.claim.metadata.name}</span>, by: r => r.id },
  { key: 'state', title: 'State', cell: r => <Status health={r.phase === 'Bound' ? r.used && r.size && r.used / r.size > 0.9 ? 'bad' : 'ok' : r.phase === 'Pending' ? 'busy' : 'bad'}>{r.phase === 'Bound' && r.used && r.size && r.used / r.size > 0.9 ? 'Nearly full' : r.phase}</Status>, by: r => r.phase },
  { key: 'used', title: 'Used', cell: r => <span class="use"><Meter label={`${r.id} used`} value={r.used} max={r.size} /><span>{bytes(r.used)} of {bytes(r.size)}{r.used !== null && r.size ? ` · ${percent(r.used / r.size)}` : ''}</span></span>, by: r => r.used !== null && r.size ? r.used / r.size : -1 },
  { key: 'full', title: 'Full in', cell: r => r.fullIn === null ? <span class="faint">–</span> : <span class={r.fullIn < 86_400 ? 'critical' : 'warning'}>{r.fullIn < 7200 ? `${Math.ceil(r.fullIn / 60)} min` : r.fullIn < 172_800 ? `${Math.round(r.fullIn / 3600)} h` : `${Math.round(r.fullIn / 86_400)} d`}</span>, by: r => r.fullIn ?? Infinity, wide: true },
  { key: 'pods', title: 'Used by', cell: r => r.pods.length ? <>{r.pods.slice(0, 3).map((p, i) => <span key={p.metadata.uid}>{i > 0 && ', '}<Link to={pathTo('pods', p.metadata.namespace!, p.metadata.name)}>{p.metadata.name}</Link></span>)}{r.pods.length > 3 && ` and ${r.pods.length - 3} more`}</> : <span class="faint">nobody</span>, by: r => r.pods.length, wide: true },
  { key: 'class', title: 'Class', cell: r => <span class="faint">{r.claim.spec.storageClassName ?? '–'}</span>, by: r => r.claim.spec.storageClassName ?? '', wide: true },
  { key: 'age', title: 'Age', cell: r => <Age at={r.claim.metadata.creationTimestamp} />, by: r => -Date.parse(r.claim.metadata.creationTimestamp), right: true },
]

export default function VolumesPage() {
  const namespace = useNamespace()
  const claims = useKind<Claim>('persistentvolumeclaims'), pods = useKind<MountingPod>('pods')
  const used = useQuery('kubelet_volume_stats_used_bytes', 30), size = useQuery('kubelet_volume_stats_capacity_bytes', 30)
  // When it is full if it goes on as in the last half hour; only what grows noticeably.
  const growth = useQuery('deriv(kubelet_volume_stats_used_bytes[30m]) > 1024', 60)
  const rows = useMemo<Row[]>(() => {
    const by = (s: Sample[] | null) => new Map((s ?? []).map(x => [`${x.metric.namespace}/${x.metric.persistentvolumeclaim}`, x.value]))
    const u = by(used.value), s = by(size.value), g = by(growth.value), mounts = new Map<string, MountingPod[]>()
    for (const p of pods.items) for (const v of p.spec.volumes ?? []) if (v.persistentVolumeClaim) {
      const id = `${p.metadata.namespace}/${v.persistentVolumeClaim.claimName}`
      mounts.set(id, [...mounts.get(id) ?? [], p])
    }
    return claims.items.map(c => {
      const id = `${c.metadata.namespace}/${c.metadata.name}`, asked = quantity(c.status.capacity?.storage ?? c.spec.resources?.requests?.storage)
      // A directory on the node's disk may grow beyond what was asked for; what counts is the lesser.
      const most = Math.min(asked || Infinity, s.get(id) ?? Infinity), have = u.get(id) ?? null, grows = g.get(id)
      return { id, claim: c, phase: c.status.phase ?? 'Pending', size: isFinite(most) ? most : null, used: have, pods: mounts.get(id) ?? [], fullIn: have !== null && grows && isFinite(most) ? Math.max(0, (most - have) / grows) : null }
    })
  }, [claims.items, pods.items, used.value, size.value, growth.value])
  return <>
    <PageHead title="Volumes" says="What is kept when pods come and go." />
    <Trouble of={[claims, pods]} />
    {claims.items.length > 0 && <Chart title="Used in the last six hours" unit="bytes" minutes={360} every={30} most={6} lines={[{ expr: `kubelet_volume_stats_used_bytes${namespace ? `{namespace=${quote(namespace)}}` : ''}`, name: l => `${l.namespace}/${l.persistentvolumeclaim}` }]} />}
    <Table label="Volumes" rows={rows} columns={columns} id={r => r.id} sort="-used" text={r => r.id} loading={loading(claims)} empty={<Empty icon="volumes" title="There are no volumes">A PersistentVolumeClaim or a Compose volume makes one.</Empty>} />
  </>
}
