import assert from 'node:assert/strict'
import { test } from 'node:test'
import { load } from './load.mjs'

const [format, workloads, health, logs, router, prom, { onGrid }, palette, timeline, alerting, anomalies] = await Promise.all(
  ['format.ts', 'workloads.ts', 'health.ts', 'logs.ts', 'router.tsx', 'prom.ts', 'ui/chart.tsx', 'ui/palette.tsx', 'timeline.ts', 'alerting.ts', 'anomalies.ts'].map(load))

test('quantities', () => {
  for (const [text, want] of [['250m', 0.25], ['1', 1], ['1.5', 1.5], ['128Mi', 2 ** 27], ['1e3', 1000], ['2k', 2000], ['100n', 1e-7], ['3E', 3e18], ['1Ei', 2 ** 60]])
    assert.ok(Math.abs(format.quantity(text) - want) <= want * 1e-12, `${text}: ${format.quantity(text)}`)
  for (const text of ['', undefined, 'abc', '1 Gi', '12Q']) assert.ok(Number.isNaN(format.quantity(text)), `${text}`)
})

test('figures', () => {
  assert.deepEqual([0, 1023, 1024, 1536, 5 * 2 ** 30, null, NaN].map(format.bytes), ['0 B', '1023 B', '1 KiB', '1.5 KiB', '5 GiB', '–', '–'])
  assert.deepEqual([0, 0.004, 0.0995, 0.25, 12.34, null].map(format.cores), ['0m', '4m', '0.1', '0.25', '12.3', '–'])
  assert.deepEqual([0, 0.004, 1, 12.345, 9990, 12000, 3.2e7].map(format.count), ['0', '0.004', '1', '12.3', '9990', '12k', '32M'])
  assert.deepEqual([0, 0.0004, 0.034, 0.5, 1].map(format.percent), ['0 %', '0.04 %', '3.4 %', '50 %', '100 %'])
  assert.deepEqual([0, 0.00087, 0.012, 3.4, 300].map(format.seconds), ['0', '870 µs', '12 ms', '3.4 s', '5m'])
  assert.deepEqual([0, 119e3, 125e3, 7199e3, 7200e3, 86400e3, 3 * 86400e3, -5].map(format.span), ['0s', '119s', '2m5s', '119m', '2h', '24h', '3d', '0s'])
})

test('names of images', () => {
  assert.deepEqual(format.imageName('127.0.0.1:5000/shop/cart:v2'), { name: 'shop/cart', tag: 'v2' })
  assert.deepEqual(format.imageName('busybox'), { name: 'busybox', tag: 'latest' })
  assert.deepEqual(format.imageName('reg.example/a/b@sha256:0123456789abcdef'), { name: 'a/b', tag: '0123456789ab' })
  assert.deepEqual(format.imageName('shop/cart:v1@sha256:0123'), { name: 'shop/cart', tag: 'v1' })
})

test('paths', () => {
  assert.deepEqual(router.match('/pods/:namespace/:name', '/pods/shop/cart-1'), { namespace: 'shop', name: 'cart-1' })
  assert.deepEqual(router.match('/x/:name', '/x/' + encodeURIComponent('<b>/..')), { name: '<b>/..' })
  assert.equal(router.match('/pods/:namespace', '/pods'), null)
  assert.equal(router.match('/x/:name', '/x/%zz'), null)
  assert.equal(router.pathTo('pods', 'a/b', '?#'), '/pods/a%2Fb/%3F%23')
  assert.equal(router.withQuery('/logs', { namespace: 'a&b', pod: '' }), '/logs?namespace=a%26b')
})

test('text in PromQL stays text', () => {
  assert.equal(prom.quote('a"b\\'), '"a\\"b\\\\"')
  assert.equal(prom.literal('a.b+(c)'), 'a\\.b\\+\\(c\\)')
})

test('lines of logs', () => {
  assert.deepEqual(logs.parseLine('2026-01-02T03:04:05.678Z hello <b>'), { at: '2026-01-02T03:04:05.678Z', text: 'hello <b>' })
  assert.deepEqual(logs.parseLine('no time here'), { at: '', text: 'no time here' })
  assert.equal(logs.parseLine('2026-01-02T03:04:05Z \x1b[31mred\x1b[0m \x1b]0;title\x07x\x08').text, 'red x�')
})

test('lines that are JSON', () => {
  assert.deepEqual(logs.structured('{"time":"2026-01-02T03:04:05Z","level":"ERROR","msg":"stopped","error":"no port in \\"x\\"","n":3,"empty":""}'),
    { says: 'stopped', level: 'error', fields: [['error', '"no port in \\"x\\""'], ['n', '3']] })
  for (const text of ['plain', '{no json}', '{"a":1}', '[1]', '{"msg":3}', '{"msg":"x"']) assert.equal(logs.structured(text), null, text)
})

const meta = (name, more = {}) => ({ name, namespace: 'shop', uid: name, resourceVersion: '1', creationTimestamp: '2026-01-01T00:00:00Z', generation: 1, ...more })
const deployment = (spec, status) => ({ metadata: meta('cart'), spec: { replicas: 3, selector: { matchLabels: { app: 'cart' } }, template: { spec: { containers: [] } }, ...spec }, status: { observedGeneration: 1, ...status } })
const conditions = (...list) => ({ conditions: list.map(([type, status, reason, message]) => ({ type, status, reason, message })) })
const settled = conditions(['Progressing', 'True', 'NewReplicaSetAvailable'])

test('states of deployments', () => {
  const says = (spec, status) => { const { health, says } = workloads.ofDeployment(deployment(spec, status)); return `${health}: ${says}` }
  assert.equal(says({}, { ...settled, replicas: 3, updatedReplicas: 3, readyReplicas: 3, availableReplicas: 3 }), 'ok: Running')
  assert.equal(says({}, { observedGeneration: 0 }), 'busy: Waiting')
  assert.equal(says({}, { updatedReplicas: 1, readyReplicas: 3 }), 'busy: Rolling out')
  assert.equal(says({}, { updatedReplicas: 3, readyReplicas: 1 }), 'busy: Starting')
  assert.equal(says({}, { ...settled, updatedReplicas: 3, readyReplicas: 1 }), 'bad: Degraded')
  assert.equal(says({}, { ...settled, updatedReplicas: 3, readyReplicas: 0 }), 'bad: Not ready')
  assert.equal(says({ replicas: 0 }, {}), 'idle: Scaled to zero')
  assert.equal(says({}, { ...conditions(['Progressing', 'False', 'ProgressDeadlineExceeded', 'late']), updatedReplicas: 3, readyReplicas: 3 }), 'bad: Stuck')
})

const pod = (name, status, more = {}) => ({ metadata: meta(name, more), spec: { containers: [{ name: 'c', image: 'i' }] }, status })
const crashing = pod('cart-1', { phase: 'Running', containerStatuses: [{ name: 'c', ready: false, restartCount: 4, image: 'i', state: { waiting: { reason: 'CrashLoopBackOff' } }, lastState: { terminated: { exitCode: 3, reason: 'Error' } } }] })

test('states of pods', () => {
  assert.deepEqual(workloads.podSays(crashing), { health: 'bad', says: 'CrashLoopBackOff', why: 'exit code 3', restarts: 4, ready: 0, total: 1 })
  assert.equal(workloads.podSays(pod('a', { phase: 'Pending', containerStatuses: [{ name: 'c', restartCount: 0, state: { waiting: { reason: 'ContainerCreating' } } }] })).says, 'Starting')
  assert.equal(workloads.podSays(pod('a', { phase: 'Running', containerStatuses: [{ name: 'c', ready: true, restartCount: 0, state: { running: {} } }] })).health, 'ok')
  assert.equal(workloads.podSays(pod('a', { phase: 'Running' }, { deletionTimestamp: 'x' })).says, 'Terminating')
  assert.equal(workloads.podSays(pod('a', { phase: 'Pending', conditions: [{ type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message: 'no room' }] })).why, 'no room')
  assert.match(workloads.podSays(pod('a', { phase: 'Running', containerStatuses: [{ name: 'c', restartCount: 1, state: { waiting: { reason: 'CrashLoopBackOff' } }, lastState: { terminated: { exitCode: 137, reason: 'OOMKilled' } } }] })).why, /memory/)
})

test('problems are told once for a workload', () => {
  const owner = { ownerReferences: [{ kind: 'ReplicaSet', name: 'cart-abc123', uid: 'set', controller: true }] }
  const sets = [{ metadata: meta('cart-abc123', { uid: 'set', ownerReferences: [{ kind: 'Deployment', name: 'cart', uid: 'd', controller: true }] }), spec: { selector: {}, template: { spec: { containers: [] } } }, status: {} }]
  const pods = ['1', '2'].map(n => ({ ...crashing, metadata: meta('cart-' + n, owner) }))
  const found = health.problems({ pods, sets, workloads: [], nodes: [], claims: [] }, Date.now())
  assert.equal(found.length, 1)
  assert.deepEqual([found[0].object, found[0].what, found[0].severity], ['shop/cart', 'CrashLoopBackOff · 2 pods', 'critical'])
  assert.equal(health.problems({ pods: [], sets, workloads: [], nodes: [], claims: [] }, Date.now()).length, 0)
})

test('a rollout is one change', () => {
  const set = { metadata: meta('cart-abc', { annotations: { 'deployment.kubernetes.io/revision': '2' }, ownerReferences: [{ kind: 'Deployment', name: 'cart', uid: 'd', controller: true }] }), spec: { template: { spec: { containers: [{ image: 'r.example/shop/cart:v2' }] } } }, status: {} }
  const event = (uid, at) => ({ metadata: meta(uid), involvedObject: { kind: 'Deployment', namespace: 'shop', name: 'cart' }, reason: 'ScalingReplicaSet', message: 'Scaled up replica set cart-abc from 2 to 3', lastTimestamp: at })
  const list = health.changes({ sets: [set], events: [event('during', '2026-01-01T00:00:10Z'), event('later', '2026-01-01T01:00:00Z')] })
  assert.deepEqual(list.map(c => [c.kind, c.what]), [['scale', 'Scaled up replica set cart-abc from 2 to 3'], ['deploy', 'revision 2: cart:v2']])
})

test('selectors', () => {
  const fits = (selector, labels) => workloads.selects(selector, labels)
  assert.ok(fits({ matchLabels: { a: '1' } }, { a: '1', b: '2' }))
  assert.ok(!fits({ matchLabels: { a: '1' } }, {}))
  assert.ok(fits({ matchExpressions: [{ key: 'a', operator: 'In', values: ['1'] }, { key: 'c', operator: 'DoesNotExist' }] }, { a: '1' }))
  assert.ok(!fits({ matchExpressions: [{ key: 'a', operator: 'NotIn', values: ['1'] }] }, { a: '1' }))
  assert.ok(!fits(undefined, { a: '1' }))
})

test('charts put answers on one grid', () => {
  const line = { expr: 'x', name: l => l.pod }
  const series = [{ metric: { pod: 'a' }, values: [[1000, 1], [1020, 3]] }, { metric: { pod: 'b' }, values: [[1010, NaN]] }]
  const { times, lines } = onGrid([{ line, series }], 1000, 1020, 10, 8)
  assert.deepEqual(times, [1000, 1010, 1020])
  assert.deepEqual(lines.map(l => [l.name, l.values, l.last]), [['a', [1, null, 3], 3], ['b', [null, null, null], null]])
  const young = onGrid([{ line, series: [{ metric: { pod: 'a' }, values: [[3500, 1], [3600, 2]] }] }], 0, 3600, 10, 8)
  assert.deepEqual([young.times[0], young.times.at(-1)], [3300, 3600])
  assert.equal(young.lines[0].values.at(-11), 1)
  const many = onGrid([{ line, series: Array.from({ length: 20 }, (_, i) => ({ metric: { pod: String(i) }, values: [[1000, i]] })) }], 1000, 1000, 10, 3)
  assert.deepEqual(many.lines.map(l => l.name), ['19', '18', '17'])
})

test('search', () => {
  assert.equal(palette.fits('shop/cart', 'cart xyz'), 0)
  assert.ok(palette.fits('cart', 'cart') > palette.fits('shop/cart', 'cart'))
  assert.ok(palette.fits('shop-cart', 'cart') > palette.fits('discarted', 'cart'))
  const found = (group, title, detail) => ({ group, title, detail, icon: 'pods', to: '' })
  const all = [found('HTTPRoute', 'cart', 'shop'), found('Image', 'cart:latest', 'shop'), found('Alert', 'HTTPRoute shop/cart fails'), found('Deployment', 'cart', 'shop'), found('Pod', 'cart-7f5-x', 'shop')]
  for (const typed of ['shop cart', 'cart']) assert.equal(all.toSorted((a, b) => palette.rated(b, typed) - palette.rated(a, typed))[0].group, 'Deployment', typed)
  assert.equal(all.toSorted((a, b) => palette.rated(b, 'cart image') - palette.rated(a, 'cart image'))[0].group, 'Image')
})

test('entries of the time line lead to pages', () => {
  const entry = more => ({ time: '2026-01-01T00:00:00Z', kind: 'deploy', severity: 'info', namespace: 'shop', workload: 'cart', object: 'deployment/cart', message: 'cart:v2', ...more })
  assert.equal(timeline.pageOf(entry()), '/workloads/shop/deployment/cart')
  assert.equal(timeline.pageOf(entry({ object: 'pod/cart-1' })), '/pods/shop/cart-1')
  assert.equal(timeline.pageOf(entry({ object: 'configmap/x', workload: 'a/b' })), '/workloads?namespace=shop&text=a%2Fb')
  assert.equal(timeline.toChange(entry({ message: `deployed cart=127.0.0.1:5000/shop/cart@sha256:${'0123456789ab'.padEnd(64, 'f')}` })).what, 'deployed cart=shop/cart:0123456789ab')
  assert.deepEqual([timeline.toChange(entry({ kind: 'rollback' })).kind, timeline.toChange(entry({ kind: 'config' })).kind], ['deploy', 'other'])
})

test('the map joins what the gateway and the kernel count', async () => {
  const map = await load('map.ts')
  const workload = name => ({ kind: 'Deployment', namespace: 'shop', name, health: 'ok', ready: 1, desired: 1, template: { metadata: { labels: { app: name } } } })
  const service = name => ({ metadata: { namespace: 'shop', name }, spec: { selector: { app: name } } })
  const flow = (from, to, value, namespace = 'shop') => ({ metric: { source_namespace: from && 'shop', source_kind: from && 'Deployment', source_workload: from, destination_namespace: to && namespace, destination_service: to }, value })
  const told = {
    gateway: [{ metric: { service: 'shop/web:80', result: '2xx' }, value: 9 }, { metric: { service: 'shop/web:80', result: '5xx' }, value: 1 }, { metric: { service: 'nonsense', result: '2xx' }, value: 1 }],
    bytes: [flow('web', 'cart', 2048), flow('cart', '', 100), flow('web', 'gone', 50), flow('web', 'web', 7)], connections: [flow('web', 'cart', 2)], refused: [flow('web', 'cart', 0.5)],
  }
  const graph = map.graphOf(told, ['web', 'cart', 'idle'].map(workload), ['web', 'cart'].map(service))
  const edges = Object.fromEntries(graph.edges.map(e => [`${e.from} > ${e.to}`, [e.requests, e.unit, e.failed, e.bytes]]))
  assert.deepEqual(edges, {
    'gateway > shop/Deployment/web': [10, 'requests', 1, null], 'shop/Deployment/web > shop/Deployment/cart': [2, 'connections', 0.5, 2048],
    'shop/Deployment/cart > outside': [null, 'connections', 0, 100], 'shop/Deployment/web > shop/Service/gone': [null, 'connections', 0, 50],
  })
  assert.deepEqual(graph.quiet.map(n => n.title), ['idle'])
  const x = Object.fromEntries(graph.nodes.map(n => [n.title, n.x]))
  assert.ok(x.Gateway < x.web && x.web < x.cart && x.cart < x.Outside, 'requests do not go from left to right')
})

test('the map places any graph, in the same way each time, without two nodes at one place', async () => {
  const { place } = await load('map.ts')
  const make = () => Array.from({ length: 40 }, (_, i) => ({ id: `n${i}`, x: 0, y: 0 }))
  const edges = Array.from({ length: 90 }, (_, i) => ({ from: `n${i * 7 % 40}`, to: `n${(i * 13 + 5) % 40}` })) // with circles
  const [a, b] = [make(), make()]
  const { width, height } = place(a, edges)
  place(b, edges)
  assert.deepEqual(a, b)
  assert.equal(new Set(a.map(n => `${n.x} ${n.y}`)).size, 40)
  for (const n of a) assert.ok(n.x >= 0 && n.y >= 0 && n.x < width && n.y < height, `${n.id} is outside`)
})

test('routes of all kinds', async () => {
  const gateway = await load('gateway.ts')
  const route = gateway.ofGatewayRoute('HTTPRoute', { metadata: { namespace: 'shop', name: 'web' }, spec: { hostnames: ['a'], parentRefs: [{ name: 'default', namespace: 'gantry-system' }], rules: [{ backendRefs: [{ name: 'web', port: 80, weight: 9 }, { kind: 'Other', name: 'x' }] }] }, status: { parents: [{ conditions: [{ type: 'ResolvedRefs', status: 'False', message: 'no web' }] }] } })
  assert.deepEqual([route.label, route.accepted, route.why, route.backends.map(b => b.name)], ['HTTPRoute/shop/web', false, 'no web', ['web']])
  const policy = (kind, name, namespace = 'shop') => ({ metadata: { namespace, name: kind + name }, spec: { targetRefs: [{ kind, name }] } })
  const found = gateway.policiesOf(route, [policy('HTTPRoute', 'web'), policy('HTTPRoute', 'other'), policy('HTTPRoute', 'web', 'blog'), policy('Namespace', 'shop'), policy('Gateway', 'default', 'gantry-system'), policy('Gateway', 'default', 'blog'), policy('Service', 'web')])
  assert.deepEqual(found.map(p => `${p.metadata.namespace}/${p.metadata.name}`), ['shop/HTTPRouteweb', 'shop/Namespaceshop', 'gantry-system/Gatewaydefault', 'shop/Serviceweb'])
})

test('links and searches are made of text safely', async () => {
  const { ownLink } = await load('alerting.ts'), { selector } = await load('loki.ts')
  assert.equal(ownLink('/console/logs?namespace=a'), '/logs?namespace=a')
  for (const text of ['javascript:alert(1)', 'https://evil.test/console/', '//evil.test', '/console/x\\y', undefined]) assert.equal(ownLink(text), undefined, text)
  assert.equal(selector({ namespace: 'shop', app: '', pod: 'a"b', container: '', level: 'error', text: 'a.b  "c' }), '{namespace="shop", pod="a\\"b"} |~ "(?i)a\\\\.b" |~ "(?i)\\"c" | detected_level="error"')
})

test('alerts beside what objects tell', () => {
  const alert = (fingerprint, severity, labels, state = 'active') => ({ fingerprint, startsAt: '2026-01-01T00:00:00Z', status: { state }, annotations: { summary: 's' }, labels: { alertname: 'A', severity, ...labels } })
  const told = [{ key: 'k', severity: 'critical', object: 'shop/cart', what: '', since: 0, to: '' }]
  const list = [alert('1', 'warning', { namespace: 'shop', pod: 'cart-5d-x' }), alert('2', 'warning', { namespace: 'shop', pod: 'cartographer-1' }), alert('3', 'critical', { node: 'n' }),
    alert('4', 'critical', { namespace: 'shop' }, 'suppressed'), alert('5', 'info', { namespace: 'shop' }), alert('6', 'warning', { namespace: 'other', deployment: 'web' })]
  assert.deepEqual(alerting.firing(list, '', told).map(p => p.key), ['alert/3', 'alert/2', 'alert/6'])
  assert.deepEqual(alerting.firing(list, 'shop', told).map(p => p.key), ['alert/3', 'alert/2'])
})

test('anomalies', () => {
  const a = { namespace: 'shop', kind: 'HTTPRoute', name: 'a"b', signal: 'latency', start: '' }
  assert.equal(anomalies.subjectPage(a), '/gateway/httproutes/shop/a%22b')
  assert.equal(anomalies.subjectPage({ ...a, kind: 'Deployment', name: 'cart' }), '/workloads/shop/deployment/cart')
  assert.ok(new URLSearchParams(anomalies.graphOf(a).split('?')[1]).get('expr').includes('workload="a\\"b"'))
  assert.deepEqual([[2 ** 21, 'bytes'], [0.25, 'seconds'], [1.23456, 'requests/s']].map(v => anomalies.amount(...v)), ['2 MiB', '250 ms', '1.23 requests/s'])
})
