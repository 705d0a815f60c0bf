// The lists that several pages look at together.

import { useMemo } from 'preact/hooks'
import { useKind } from './kube/paths'
import type { CronJob, DaemonSet, Deployment, Job, Pod, ReplicaSet, StatefulSet } from './kube/types'
import { controllerOf, ofCronJob, ofDaemonSet, ofDeployment, ofJob, ofStatefulSet, type Workload } from './workloads'
import { loading } from './ui/parts'

/** All workloads of the namespace that is looked at, or of the given one. */
export function useWorkloads(namespace?: string) {
  const deployments = useKind<Deployment>('deployments', namespace), stateful = useKind<StatefulSet>('statefulsets', namespace), daemons = useKind<DaemonSet>('daemonsets', namespace)
  const jobs = useKind<Job>('jobs', namespace), cronJobs = useKind<CronJob>('cronjobs', namespace)
  const items = useMemo<Workload[]>(() => [
    ...deployments.items.map(ofDeployment), ...stateful.items.map(ofStatefulSet), ...daemons.items.map(ofDaemonSet),
    ...jobs.items.filter(j => !controllerOf(j)).map(ofJob), ...cronJobs.items.map(ofCronJob),
  ], [deployments.items, stateful.items, daemons.items, jobs.items, cronJobs.items])
  const views = [deployments, stateful, daemons, jobs, cronJobs]
  return { items, views, loading: loading(...views) }
}

/** Pods, with the ReplicaSets that tell which Deployment is theirs. */
export function usePods(namespace?: string) {
  const pods = useKind<Pod>('pods', namespace), sets = useKind<ReplicaSet>('replicasets', namespace)
  const byUID = useMemo(() => new Map(sets.items.map(s => [s.metadata.uid, s])), [sets.items])
  return { pods, sets, byUID }
}
