// Every page of the console: its path, its name, and where it stands in the menu. A page is one file
// in pages/ that is loaded when it is opened.

import type { ComponentType } from 'preact'
import type { IconName } from './ui/icons'

export interface PageProps { params: Record<string, string> }
type Load = () => Promise<{ default: ComponentType<PageProps> }>

export interface Page {
  path: string
  title: string
  load: Load
  /** In the menu, in which group; without, the page is reached from others. */
  menu?: { group: string; icon: IconName }
}

export const pages: Page[] = [
  { path: '/', title: 'Overview', load: () => import('./pages/overview'), menu: { group: '', icon: 'overview' } },
  { path: '/workloads', title: 'Workloads', load: () => import('./pages/workloads'), menu: { group: 'Run', icon: 'workloads' } },
  { path: '/workloads/:namespace/:kind/:name', title: 'Workload', load: () => import('./pages/workload') },
  { path: '/pods', title: 'Pods', load: () => import('./pages/pods'), menu: { group: 'Run', icon: 'pods' } },
  { path: '/pods/:namespace/:name', title: 'Pod', load: () => import('./pages/pod') },
  { path: '/volumes', title: 'Volumes', load: () => import('./pages/volumes'), menu: { group: 'Run', icon: 'volumes' } },
  { path: '/namespaces', title: 'Namespaces', load: () => import('./pages/namespaces'), menu: { group: 'Run', icon: 'namespaces' } },
  { path: '/namespaces/:name', title: 'Namespace', load: () => import('./pages/namespace') },
  { path: '/map', title: 'Map', load: () => import('./pages/map'), menu: { group: 'Traffic', icon: 'map' } },
  { path: '/gateway', title: 'Gateway', load: () => import('./pages/gateway'), menu: { group: 'Traffic', icon: 'gateway' } },
  { path: '/gateway/:kind/:namespace/:name', title: 'Route', load: () => import('./pages/route') },
  { path: '/alerts', title: 'Alerts', load: () => import('./pages/alerts'), menu: { group: 'Watch', icon: 'alerts' } },
  { path: '/alerts/:fingerprint', title: 'Alert', load: () => import('./pages/alert') },
  { path: '/logs', title: 'Logs', load: () => import('./pages/logs'), menu: { group: 'Watch', icon: 'logs' } },
  { path: '/graph', title: 'Graph', load: () => import('./pages/graph'), menu: { group: 'Watch', icon: 'graph' } },
  { path: '/audit', title: 'Audit', load: () => import('./pages/audit'), menu: { group: 'Watch', icon: 'audit' } },
  { path: '/images', title: 'Images', load: () => import('./pages/images'), menu: { group: 'Deliver', icon: 'images' } },
  { path: '/images/:name', title: 'Image', load: () => import('./pages/image') },
  { path: '/builds', title: 'Builds', load: () => import('./pages/builds'), menu: { group: 'Deliver', icon: 'builds' } },
  { path: '/builds/:namespace/:name', title: 'Build', load: () => import('./pages/build') },
]

/** Whether there is a page at a path. */
export const has = (path: string) => pages.some(p => p.path === path)
