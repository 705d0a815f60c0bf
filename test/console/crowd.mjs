// Every page with 200 pods, 50 routes and texts that attack it wherever the API lets somebody write text: everything must
// be shown as it is, be readable and fit, in both colours and sizes. The API is played; the pages are those that are embedded.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createSecureServer } from 'node:http2'
import { tmpdir } from 'node:os'
import { extname, join } from 'node:path'
import { hardships, open, violations } from './browser.mjs'

const { pictures } = JSON.parse(process.argv[2] ?? '{}')
const source = new URL('../../services/console/', import.meta.url).pathname
const policy = [...readFileSync(join(source, 'pages.go'), 'utf8').match(/const policy = ([\s\S]*?)\n\n/)[1].matchAll(/"([^"]*)"/g)].map(m => m[1]).join('')
const attack = '<img src=x onerror=alert(1)>"\'\u202e${7*7}{{7*7}}\u001b[31m'
const now = Date.now(), ago = s => new Date(now - s * 1000).toISOString()

// What there is.
const services = Array.from({ length: 50 }, (_, i) => ({ namespace: `team-${i % 10}`, name: `service-${i}` }))
const meta = (namespace, name, more = {}) => ({ namespace, name, uid: `${namespace}-${name}-${more.kind ?? ''}`, resourceVersion: '1', creationTimestamp: ago(90_000), ...more })
const template = s => ({ metadata: { labels: { app: s.name } }, spec: { containers: [{ name: 'main', image: `127.0.0.1:5000/${s.namespace}/${s.name}:1.0` }] } })
const sets = services.map(s => ({ metadata: meta(s.namespace, `${s.name}-5d4f`, { kind: 'rs', annotations: { 'deployment.kubernetes.io/revision': '1' }, ownerReferences: [{ kind: 'Deployment', name: s.name, uid: `${s.namespace}-${s.name}-deploy`, controller: true }] }), spec: { selector: {}, template: template(s) }, status: {} }))
const pods = Array.from({ length: 200 }, (_, i) => { const s = services[i % 50]; return {
  metadata: meta(s.namespace, `${s.name}-5d4f-${i}`, { labels: { app: s.name, 'pod-template-hash': '5d4f' }, ownerReferences: [{ kind: 'ReplicaSet', name: `${s.name}-5d4f`, uid: `${s.namespace}-${s.name}-5d4f-rs`, controller: true }] }),
  spec: { nodeName: 'here', containers: template(s).spec.containers, volumes: [{ name: 'v', persistentVolumeClaim: { claimName: `data-${i % 30}` } }] },
  status: { phase: 'Running', podIP: '10.244.0.9', startTime: ago(80_000), conditions: [{ type: 'Ready', status: 'True', lastTransitionTime: ago(80_000) }],
    containerStatuses: [{ name: 'main', ready: i !== 7, restartCount: i % 9 ? 0 : 3, image: '', imageID: `127.0.0.1:5000/${s.namespace}/${s.name}@sha256:${String(i % 50).padStart(64, '0')}`, state: i === 7 ? { waiting: { reason: 'CrashLoopBackOff', message: attack } } : { running: { startedAt: ago(80_000) } } }] },
} })
const lists = {
  pods, replicasets: sets, statefulsets: [], daemonsets: [], jobs: [], cronjobs: [], gateways: [], grpcroutes: [], tlsroutes: [], tcproutes: [], ingresses: [], controllerrevisions: [],
  deployments: services.map(s => ({ metadata: meta(s.namespace, s.name, { kind: 'deploy', generation: 1 }), spec: { replicas: 4, selector: { matchLabels: { app: s.name } }, template: template(s) }, status: { observedGeneration: 1, replicas: 4, updatedReplicas: 4, readyReplicas: 4, availableReplicas: 4, conditions: [{ type: 'Progressing', status: 'True', reason: 'NewReplicaSetAvailable' }] } })),
  services: services.map(s => ({ metadata: meta(s.namespace, s.name, { kind: 'svc' }), spec: { clusterIP: '10.96.0.9', selector: { app: s.name }, ports: [{ port: 80 }] } })),
  namespaces: [...Array.from({ length: 10 }, (_, i) => ({ metadata: meta(undefined, `team-${i}`, { labels: i < 4 ? { 'gantry.dev/tenant': i % 2 ? 'acme' : attack } : {} }), status: { phase: 'Active' } })), { metadata: meta(undefined, 'kube-system'), status: { phase: 'Active' } }],
  nodes: [{ metadata: meta(undefined, 'here'), spec: {}, status: { capacity: { cpu: '8', memory: '16Gi' }, allocatable: { cpu: '8', memory: '16Gi' }, conditions: [{ type: 'Ready', status: 'True' }], nodeInfo: { kubeletVersion: 'v1', osImage: attack, kernelVersion: '6' } } }],
  events: Array.from({ length: 100 }, (_, i) => ({ metadata: meta(services[i % 50].namespace, `e${i}`), involvedObject: { kind: 'Pod', namespace: services[i % 50].namespace, name: pods[i].metadata.name }, reason: 'BackOff', message: attack, type: 'Warning', lastTimestamp: ago(i) })),
  httproutes: services.map(s => ({ metadata: meta(s.namespace, s.name, { kind: 'route' }), spec: { hostnames: [`${s.name}.example.com`], parentRefs: [{ name: 'default', namespace: 'gantry-system' }], rules: [{ matches: [{ path: { value: '/' } }], backendRefs: [{ name: s.name, port: 80 }] }] }, status: { parents: [{ conditions: [{ type: 'Accepted', status: 'True' }] }] } })),
  trafficpolicies: [{ metadata: meta('team-0', 'limits'), spec: { targetRefs: [{ kind: 'HTTPRoute', name: 'service-0' }], rateLimit: {} }, status: { ancestors: [{ conditions: [{ type: 'Accepted', status: 'False', message: attack }] }] } }], accesspolicies: [], backendpolicies: [],
  persistentvolumeclaims: Array.from({ length: 30 }, (_, i) => ({ metadata: meta(`team-${i % 10}`, `data-${i}`, { kind: 'pvc' }), spec: { storageClassName: 'local', resources: { requests: { storage: '1Gi' } } }, status: { phase: 'Bound', capacity: { storage: '1Gi' } } })),
  builds: Array.from({ length: 60 }, (_, i) => ({ metadata: meta(`team-${i % 10}`, `app-${i}`, { kind: 'build' }), spec: { pipeline: 'app', number: i }, status: { phase: i % 7 ? 'Succeeded' : 'Failed', message: i % 7 ? undefined : attack, durationSeconds: 40, commit: { id: 'abcdef0123', short: 'abcdef0', author: attack, message: attack }, images: [{ name: `service-${i}`, reference: `127.0.0.1:5000/x@sha256:${String(i % 50).padStart(64, '0')}`, signed: i % 5 > 0, scan: '2 high' }] } })),
  resourcequotas: Array.from({ length: 5 }, (_, i) => ({ metadata: meta(`team-${i}`, 'quota', { kind: 'quota' }), status: { hard: { pods: '30', 'requests.memory': '4Gi', [attack]: '3' }, used: { pods: '20', 'requests.memory': '3900Mi', [attack]: '1' } } })),
  pipelines: [], scalepolicies: [], trustpolicies: [],
}
const digest = i => `sha256:${String(i).padStart(64, '0')}`
const imageOf = (s, i) => ({
  repository: `${s.namespace}/${s.name}`, tags: ['1.0', 'latest'], digest: digest(i), platform: 'linux/amd64', created: ago(86_400 * i), sizeBytes: 3e7 + i * 1e6, declaredBase: attack,
  base: i === 9 ? undefined : { repository: `${services[9].namespace}/${services[9].name}`, tag: '1.0', digest: digest(9), layers: 2 }, signedBy: i % 5 ? ['instance'] : [], unknownSignatures: i % 2, sbom: true,
  scan: i % 4 ? { critical: i % 7 ? 0 : 2, high: i % 3, medium: 3, low: 40, unknown: 1, fixable: 4, secrets: i % 11 ? 0 : 1, faults: 2, finished: ago(900), scanner: attack } : undefined, provenance: { source: attack, commit: 'abcdef0123456789', build: attack, builder: attack },
})
const detailsOf = i => ({
  ...imageOf(services[i], i), user: attack, command: [attack], ports: ['8080/tcp'], labels: { [attack]: attack }, packages: 214, rejected: [attack], derived: services.slice(1, 30).map((s, k) => ({ repository: `${s.namespace}/${s.name}`, tag: '1', digest: digest(k), layers: 1 })),
  layers: Array.from({ length: 7 }, (_, k) => ({ digest: digest(k), sizeBytes: 1e6 * (k + 1) ** 2, createdBy: `RUN ${attack} ${'apt-get install '.repeat(12)}`, created: ago(900) })), attached: [{ type: 'https://sigstore.dev/cosign/sign/v1', key: 'instance' }, { type: attack, key: attack }, { type: 'https://spdx.dev/Document' }],
  findings: Array.from({ length: 60 }, (_, k) => ({ id: k ? `CVE-2026-${1000 + k}` : attack, severity: ['critical', 'high', 'medium', 'low', 'unknown'][Math.min(4, k % 9)], score: 9.8 - k / 10, summary: `${attack} ${'a flaw of great length '.repeat(9)}`, package: k ? 'libssl3' : attack, installed: '3.0.11-1~deb12u2', fixed: k % 2 ? '3.0.15-1' : undefined, url: k ? 'https://osv.dev/CVE' : 'javascript:alert(5)' })),
  faultsFound: [{ rule: 'secret', severity: 'high', message: attack, fix: attack, path: attack }],
})
const alerts = Array.from({ length: 25 }, (_, i) => ({
  fingerprint: `f${i}`, startsAt: ago(600), endsAt: ago(-600), status: { state: i % 6 ? 'active' : 'suppressed', silencedBy: i % 6 ? [] : ['s'], inhibitedBy: [] },
  labels: { alertname: 'PodCrashLooping', severity: i % 3 ? 'warning' : 'critical', namespace: 'team-0', pod: attack },
  annotations: { summary: `Pod ${i} ${attack}`, first: attack, description: attack, object: `pod team-0/${i}`, graph: '/console/graph?expr=up', logs: '/console/logs?namespace=team-0', change: i ? '/console/workloads/team-0/deployment/service-0' : 'javascript:alert(3)' },
}))

// What is measured. Each expression of the pages gets an answer of its form.
function series(expr) {
  const wave = i => 20 + 15 * Math.sin(i)
  if (/upstream_requests_total/.test(expr)) return services.flatMap((s, i) => i % 3 ? [] : [{ service: `${s.namespace}/${s.name}:80`, result: '2xx', v: wave(i) }, ...(i % 9 ? [] : [{ service: `${s.namespace}/${s.name}:80`, result: '5xx', v: 1 }])])
  if (/gantry_service_/.test(expr)) return services.flatMap((s, i) => [1, 7].map(d => services[(i * d + d + 3) % 50]).filter(t => t !== s && i % 3 < 2).map(t => ({ source_namespace: s.namespace, source_kind: 'Deployment', source_workload: s.name, destination_namespace: t.namespace, destination_service: t.name, v: /refused/.test(expr) ? Number(i === 4) : wave(i) * (/bytes/.test(expr) ? 1000 : 0.2) })))
  if (/by \(route|topk/.test(expr)) return services.map((s, i) => ({ route: `HTTPRoute/${s.namespace}/${s.name}`, v: /quantile/.test(expr) ? 0.01 * (i + 1) : /5\.\./.test(expr) ? Number(i === 3) : wave(i) })).slice(0, /topk/.test(expr) ? 6 : 50)
  if (/kubelet_volume_stats/.test(expr)) return lists.persistentvolumeclaims.map((c, i) => ({ namespace: c.metadata.namespace, persistentvolumeclaim: c.metadata.name, v: /deriv/.test(expr) ? 5000 : /capacity/.test(expr) ? 1e12 : i * 36e6 }))
  if (/by \((namespace|pod)\)/.test(expr)) return Array.from({ length: 10 }, (_, i) => ({ namespace: `team-${i}`, pod: `p${i}`, v: wave(i) }))
  return [{ label: attack, v: 3 }]
}
const audited = Array.from({ length: 300 }, (_, i) => ({ auditID: `a${i}`, verb: 'patch', requestReceivedTimestamp: ago(i * 30), requestURI: attack, sourceIPs: [attack], userAgent: attack, user: { username: attack }, responseStatus: { code: i % 20 ? 200 : 403, message: attack }, objectRef: { resource: 'deployments', namespace: 'team-0', name: attack } }))

function answer(path, q, res) {
  const json = body => { res.setHeader('Content-Type', 'application/json'); res.end(JSON.stringify(body)) }
  if (path.endsWith('/query')) return json({ status: 'success', data: { resultType: 'vector', result: series(q.get('query')).map(({ v, ...metric }) => ({ metric, value: [now / 1000, String(v)] })) } })
  if (path.endsWith('/prometheus/api/v1/query_range')) {
    const [start, end, step] = ['start', 'end', 'step'].map(n => Number(q.get(n)))
    return json({ status: 'success', data: { resultType: 'matrix', result: series(q.get('query')).slice(0, 20).map(({ v, ...metric }) => ({ metric, values: Array.from({ length: Math.floor((end - start) / step) + 1 }, (_, i) => [start + i * step, String(v * (1 + 0.2 * Math.sin(i / 5)))]) })) } })
  }
  if (path.endsWith('/loki/api/v1/query_range')) {
    if (/count_over_time/.test(q.get('query'))) return json({ data: { resultType: 'matrix', result: [{ metric: {}, values: Array.from({ length: 60 }, (_, i) => [Math.round(now / 1000) - 3600 + i * 60, String(40 + 30 * Math.sin(i / 4) | 0)]) }] } })
    return json({ data: { resultType: 'streams', result: services.slice(0, 20).map((s, k) => ({ stream: { namespace: s.namespace, app: s.name, pod: `${s.name}-5d4f-1`, container: 'main', detected_level: k % 5 ? 'info' : 'error' }, values: Array.from({ length: 50 }, (_, i) => [String(BigInt(now - i * 1000 - k) * 1000000n), `${i} ${attack}`]) })) } })
  }
  if (path.includes('/loki/api/v1/label/')) return json({ data: services.map(s => s.name) })
  if (path.endsWith('/api/v2/alerts')) return json(alerts)
  if (path.endsWith('/api/v2/silences')) return json([{ id: 's', status: { state: 'active' }, matchers: [{ name: 'alertname', value: attack, isRegex: false, isEqual: true }], startsAt: ago(9), endsAt: ago(-9000), createdBy: attack, comment: attack }])
  if (path.includes('/anomalies/')) return json({ watched: 99, known: 99, anomalies: services.slice(0, 20).map((s, i) => ({ namespace: s.namespace, kind: i % 2 ? 'Deployment' : 'HTTPRoute', name: attack, signal: 'latency', unit: 'seconds', start: ago(i * 60), value: 2, expected: 0.1, deviation: 0.1, score: 19, causes: [{ kind: 'deploy', time: ago(i * 60), namespace: s.namespace, object: attack, message: attack, weight: 1 }] })) })
  if (path.endsWith('/images/api/v1/images')) return json({ registry: '127.0.0.1:5000', complete: true, images: services.map(imageOf) })
  if (path.endsWith('/images/api/v1/image')) return json(detailsOf(5))
  if (path.includes('/timeline/')) return json({ events: services.map((s, i) => ({ time: ago(i * 60), kind: 'deploy', severity: 'info', namespace: s.namespace, workload: `Deployment/${s.name}`, object: attack, message: attack, by: attack })) })
  if (path.includes('/audit/api/v1/')) return json({ entries: audited, complete: false })
  if (path.endsWith('/selfsubjectaccessreviews')) return json({ status: { allowed: true } })
  if (path.includes('/buildlogs/')) return res.end(q.get('offset') === '0' ? `building\n${attack}\n`.repeat(500) : '')
  if (path.endsWith('/log')) return res.end(`${ago(1)} ${attack}\n`.repeat(200))
  const kind = path.split('/').at(-1), of = /\/namespaces\/([^/]+)\//.exec(path)?.[1]
  if (!lists[kind]) { res.statusCode = 404; return json({ message: `there is no ${path}` }) }
  if (q.get('watch')) return res.write('\n') // nothing changes
  json({ kind: 'List', metadata: { resourceVersion: '1' }, items: lists[kind].filter(o => !of || o.metadata.namespace === of) })
}

const kinds = { '.js': 'text/javascript', '.css': 'text/css', '.woff2': 'font/woff2', '.svg': 'image/svg+xml' }
// HTTP/2, as the API has it: watches would take all connections of a browser otherwise.
function certificate() {
  const dir = mkdtempSync(join(tmpdir(), 'crowd-')), file = name => join(dir, name)
  execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=127.0.0.1', '-days', '2', '-keyout', file('key'), '-out', file('cert')], { stdio: 'ignore' })
  const pair = { key: readFileSync(file('key')), cert: readFileSync(file('cert')) }
  rmSync(dir, { recursive: true })
  return pair
}

const sessions = new Set()
const server = createSecureServer(certificate(), (req, res) => {
  const url = new URL(req.url, 'https://localhost'), path = url.pathname.replace('/console', '')
  res.setHeader('Content-Security-Policy', policy)
  if (path === '/session') { res.setHeader('Content-Type', 'application/json'); return res.end(JSON.stringify({ user: { name: 'jane', groups: [] }, expires: ago(-9999), proof: 'p' })) }
  if (path.startsWith('/api/')) return answer(path.slice(4), url.searchParams, res)
  const file = path.startsWith('/assets/') ? path : '/index.html'
  res.setHeader('Content-Type', kinds[extname(file)] ?? 'text/html; charset=utf-8')
  res.end(readFileSync(join(source, 'dist', file)))
})
server.on('session', s => { sessions.add(s); s.on('close', () => sessions.delete(s)) })
await new Promise(r => server.listen(0, '127.0.0.1', r))
const at = `https://127.0.0.1:${server.address().port}/console`

// Each page, and what can be seen when it can be used.
const row = text => page => page.getByRole('row').filter({ hasText: text }).first()
const targets = [
  ['/', page => page.getByRole('img', { name: /^Requests by answer/ })], ['/workloads', row('service-0')], ['/workloads/team-0/deployment/service-0', page => page.getByRole('img', { name: /^Requests by answer/ })], ['/pods', row('service-0-5d4f-0')],
  ['/pods/team-0/service-0-5d4f-0', page => page.getByRole('log')], ['/namespaces', row('team-0')],
  ['/map', page => page.locator('.map .node').nth(30)], ['/gateway', row('service-49')], ['/gateway/httproutes/team-0/service-0', row('service-0')], ['/volumes', row('data-29')], ['/alerts', row('Pod 1 ')],
  ['/alerts/f1', page => page.getByRole('img', { name: /^What the rule looks at/ })], ['/logs', page => page.locator('.lines > div').nth(900)], ['/graph?expr=up', page => page.locator('.plot')], ['/audit', row('403')], ['/images', row('service-9')], [`/images/${encodeURIComponent('team-8/service-8@' + digest(8))}`, row('CVE-2026-1001')], ['/namespaces/team-0', row('service-0')],
  ['/builds', row('#59')], ['/builds/team-0/app-0', page => page.getByRole('log')],
]
const { browser, page, wrong } = await open()
page.setDefaultTimeout(60_000)
const hard = []
try {
  await page.goto(at + '/')
  await page.evaluate(() => localStorage.setItem('gantry.proof', 'p'))
  for (const [path, seen] of targets) {
    await page.goto(at + path, { waitUntil: 'commit' })
    await seen(page).waitFor()
    for (const [size, viewport] of Object.entries({ wide: { width: 1360, height: 900 }, phone: { width: 390, height: 844 } })) {
      await page.setViewportSize(viewport)
      for (const colorScheme of ['dark', 'light']) {
        await page.emulateMedia({ colorScheme })
        hard.push(...(await hardships(page)).map(h => `${path}, ${colorScheme}, ${size}: ${h}`))
        if ((size === 'wide') === (colorScheme === 'dark')) hard.push(...(await violations(page)).map(v => `${path}, ${colorScheme}, ${size}: ${v}`))
        if (pictures) {
          mkdirSync(pictures, { recursive: true })
          await page.waitForTimeout(400)
          await page.screenshot({ path: join(pictures, `${path.split('?')[0].split('%')[0].replaceAll('/', '_') || 'overview'}-${size}-${colorScheme}.png`) })
        }
      }
    }
    await page.setViewportSize({ width: 1360, height: 900 })
  }
  assert.deepEqual(hard, [])
  assert.deepEqual(wrong, [])
  assert.equal(await page.locator('img[src=x]').count(), 0, 'a name became markup')
  await page.goto(at + '/alerts/f0')
  await page.getByRole('heading', { level: 1 }).waitFor()
  assert.equal(await page.locator('a[href^="javascript:"]').count(), 0, 'an annotation became a script')
} finally {
  await browser.close()
  for (const s of sessions) s.destroy()
  server.close()
}
