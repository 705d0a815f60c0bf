// A person logs in, sees a workload fail, finds out why, rolls it back and watches it recover; nothing is reloaded.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { hardships, open, violations } from './browser.mjs'
import { takePictures } from './pictures.mjs'

const { link, namespace, workload, change, log, shell, screenshots, failure } = JSON.parse(process.argv[2])
const { browser, context, page, wrong } = await open()
const patience = { timeout: 60_000 }
page.setDefaultTimeout(20_000)

const kubectl = (...args) => execFileSync('kubectl', args, { encoding: 'utf8' })
const began = Date.now()
const done = step => console.log(`${((Date.now() - began) / 1000).toFixed(1)} s  ${step}`)

/** What a chart says of one of its lines now. */
const reads = (title, line) => page.waitForFunction(([title, line]) => {
  const chart = document.querySelector(`[role=img][aria-label^="${title}"]`)?.ariaLabel ?? ''
  const value = parseFloat(chart.match(new RegExp(`${line}: ([0-9.]+)`))?.[1] ?? '0')
  return value > 0 ? value : null
}, [title, line], patience)

async function usable(where) {
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme })
    assert.deepEqual(await hardships(page), [], `${where}, ${colorScheme}`)
  }
  await page.emulateMedia({ colorScheme: 'light' })
  assert.deepEqual(await violations(page), [], where)
}

/** Every page of the menu, and one of each kind of object, with something in it. */
async function everyPage() {
  const menu = await page.getByRole('navigation').getByRole('link').evaluateAll(links => links.map(l => [l.pathname.slice('/console/'.length) || 'overview', l.pathname.slice('/console'.length)]))
  const pod = kubectl('-n', namespace, 'get', 'pods', '-o', 'name').split('\n').find(p => p.startsWith(`pod/${workload}-`)).slice(4)
  const digest = kubectl('-n', namespace, 'get', 'pods', '-l', 'app.kubernetes.io/name=redis', '-o', 'jsonpath={.items[0].status.containerStatuses[0].imageID}').split('@')[1]
  const build = kubectl('-n', namespace, 'get', 'builds', '--sort-by=.spec.number', '-o', 'name').trim().split('\n').at(-1).split('/')[1]
  const of = (page, ...parts) => `/${page}/${parts.map(encodeURIComponent).join('/')}`
  return {
    ...Object.fromEntries(menu.filter(([name]) => name !== 'alerts')), // those have been taken when there were some
    workload: of('workloads', namespace, 'deployment', workload), pod: of('pods', namespace, pod), namespace: of('namespaces', namespace), route: of('gateway', 'httproutes', namespace, workload),
    image: of('images', `${namespace}/redis@${digest}`), build: of('builds', namespace, build), logs: `/logs?namespace=${namespace}`,
    graph: `/graph?minutes=15&expr=${encodeURIComponent('histogram_quantile(0.95, sum by (route, le) (rate(gantry_gateway_request_duration_seconds_bucket[1m])))')}`,
  }
}

try {
  // Log in.
  await page.goto(link)
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor()
  assert.equal(new URL(page.url()).hash, '', 'the code stays in the address')
  assert.equal(await page.evaluate(() => document.cookie), '', 'scripts can read the cookie')
  const [cookie] = await context.cookies()
  assert.equal(cookie.httpOnly && cookie.secure && cookie.sameSite, 'Strict')
  const second = await open()
  await second.page.goto(link)
  await second.page.getByRole('alert').filter({ hasText: 'has been used' }).waitFor()
  await second.browser.close()
  done('logged in, by a link that works once')
  await page.getByText('Nothing is wrong').waitFor(patience)
  await usable('overview')

  // Find the workload by keyboard alone.
  await page.keyboard.press('/')
  await page.locator('dialog.palette input:focus').waitFor()
  await page.keyboard.type(`${namespace} ${workload}`)
  await page.getByRole('option', { selected: true }).filter({ hasText: 'Deployment' }).waitFor()
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { level: 1, name: workload }).waitFor()
  await page.getByText('Running', { exact: true }).first().waitFor(patience)
  await reads('Requests by answer', 'answered')
  await usable('workload')
  done('found the workload; its traffic is on the graph')

  if (screenshots) {
    await takePictures(page, screenshots, await everyPage())
    done('took pictures of every page')
    await page.getByRole('navigation').getByRole('link', { name: 'Workloads' }).click()
    await page.getByRole('table', { name: 'Workloads' }).getByRole('link', { name: `${namespace}/${workload}` }).click()
  }

  // It breaks, and the page says so by itself.
  kubectl('-n', namespace, 'patch', 'deployment', workload, '--type=json', '-p', JSON.stringify([
    { op: 'add', ...change },
    { op: 'add', path: '/spec/strategy', value: { type: 'Recreate' } }]))
  await page.getByRole('region', { name: 'Rollout of revision 2' }).waitFor()
  await page.getByRole('row').filter({ hasText: 'CrashLoopBackOff' }).first().waitFor(patience)
  done('saw the rollout fail')
  await reads('Requests by answer', 'errors')
  done('saw errors rise on the graph')

  // Why: the log of a failing pod, in which markup is text.
  await page.getByRole('row').filter({ hasText: 'CrashLoopBackOff' }).first().getByRole('link').click()
  await page.getByRole('log').getByText(log).first().waitFor(patience)
  assert.equal(await page.locator('main img').count() + await page.locator('.log b').filter({ hasText: /^no$/ }).count(), 0, 'markup in a log or a message became elements')
  await usable('pod')
  done('read the log of a failing pod')

  // The overview names it.
  await page.getByRole('navigation').getByRole('link', { name: 'Overview' }).click()
  const problem = page.getByRole('region', { name: 'Wrong now' }).getByRole('listitem').filter({ hasText: `${namespace}/${workload}` })
  await problem.first().waitFor(patience)

  // The alert says what to do first and leads to the graph, the log and the last change. It is silenced, and heard again.
  await page.getByRole('navigation').getByRole('link', { name: /^Alerts/ }).click()
  const alert = page.getByRole('table', { name: 'Alerts' }).getByRole('row').filter({ hasText: 'PodCrashLooping' }).filter({ hasText: workload }).first()
  await alert.waitFor({ timeout: 180_000 })
  await usable('alerts')
  if (screenshots) await takePictures(page, screenshots, { trouble: '/', alerts: '/alerts', alert: await alert.getByRole('link').first().evaluate(a => a.pathname.slice('/console'.length)) })
  await page.getByRole('navigation').getByRole('link', { name: /^Alerts/ }).click()
  await alert.getByRole('link').first().click()
  await page.getByRole('region', { name: 'What to do first' }).getByText('log').first().waitFor()
  await page.getByRole('img', { name: /^What the rule looks at/ }).waitFor(patience)
  await page.getByRole('log').getByText(log).first().waitFor(patience)
  assert.equal(await page.getByRole('link', { name: 'Last change' }).evaluate(a => a.pathname), `/console/workloads/${namespace}/deployment/${workload}`)
  await usable('alert')
  await page.getByRole('button', { name: 'Silence…' }).click()
  await page.getByRole('dialog').getByLabel('Why').fill('of a story')
  await page.getByRole('dialog').getByRole('button', { name: 'Silence for 2 h' }).click()
  await page.locator('.page-head').getByText('Silenced', { exact: true }).waitFor(patience)
  await page.getByRole('navigation').getByRole('link', { name: /^Alerts/ }).click()
  const silences = page.getByRole('region', { name: 'Silences' })
  await silences.getByRole('listitem').filter({ hasText: 'of a story' }).getByRole('button', { name: 'End' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'End it' }).click()
  await silences.waitFor({ state: 'detached', timeout: 60_000 })
  await alert.getByText('Silenced').waitFor({ state: 'detached', timeout: 60_000 })
  done('silenced an alert, and heard it again')

  // Roll back.
  await page.getByRole('navigation').getByRole('link', { name: 'Workloads' }).click()
  await page.getByRole('table', { name: 'Workloads' }).getByRole('link', { name: `${namespace}/${workload}` }).click()
  await page.getByRole('button', { name: 'Roll back' }).first().click()
  await page.getByRole('dialog').getByRole('button', { name: 'Roll back' }).click()
  await page.getByText(`${workload} goes back to revision 1`).waitFor()
  await page.locator('.page-head').getByText('Running', { exact: true }).waitFor(patience)
  await reads('Requests by answer', 'answered')
  done('rolled back; it runs')
  await page.getByRole('navigation').getByRole('link', { name: 'Overview' }).click()
  // The error budget of its route may be used up by now, which stays an alert for a while; the workload itself is well.
  await page.getByRole('region', { name: 'Wrong now' }).getByRole('link', { name: `${namespace}/${workload}`, exact: true }).waitFor({ state: 'detached', ...patience })
  done('nothing is wrong with it any more')

  // What else tells of it: the map, the route, all logs, the audit log.
  const menu = name => page.getByRole('navigation').getByRole('link', { name, exact: true }).click()
  await menu('Map')
  const traffic = page.getByRole('table', { name: 'Traffic' }).getByRole('row')
  await traffic.filter({ hasText: 'Gateway' }).filter({ hasText: workload }).filter({ hasText: 'req/s' }).waitFor(patience)
  await traffic.filter({ hasText: `${namespace}/` }).filter({ hasText: 'conn/s' }).first().waitFor(patience)
  await usable('map')
  done('saw on the map who talks to whom')
  await menu('Gateway')
  await page.getByRole('table', { name: 'Routes' }).getByRole('link', { name: new RegExp(`^${namespace}/`) }).first().click()
  await page.getByRole('table', { name: 'Backends' }).getByRole('row').filter({ hasText: 'available' }).first().waitFor(patience)
  await reads('Requests by answer', '2xx')
  await usable('route')
  done('saw the route and who answers')
  await menu('Logs')
  await page.getByLabel('Words in the line').fill(log)
  await page.getByLabel('Lines found').getByText(log).first().waitFor(patience)
  await usable('logs')
  done('found the line again in all logs')
  await menu('Audit')
  await page.getByRole('table', { name: 'Entries' }).getByRole('row').filter({ hasText: `deployments ${workload}` }).filter({ hasText: 'patch' }).first().waitFor(patience)
  await usable('audit')
  for (const name of ['Graph', 'Volumes', 'Images', 'Builds', 'Namespaces']) {
    await menu(name)
    await page.getByRole('heading', { level: 1, name }).waitFor()
    await page.locator('main .skeleton').waitFor({ state: 'detached' })
    await usable(name)
  }
  done('saw who changed it')

  // A shell in a pod.
  await page.getByRole('navigation').getByRole('link', { name: 'Pods' }).click()
  await page.getByRole('table', { name: 'Pods' }).getByRole('link', { name: new RegExp(`^${namespace}/${workload}-`) }).first().click()
  if (shell) {
    await page.getByRole('button', { name: 'Shell' }).click()
    await page.getByRole('region', { name: 'Shell' }).locator('.xterm-rows').getByText(/[#$] /).waitFor(patience)
    await page.keyboard.type('echo $((6*7))\n')
    await page.getByRole('region', { name: 'Shell' }).locator('.xterm-rows').getByText('42', { exact: true }).waitFor()
    await page.getByRole('button', { name: 'Close the shell' }).click()
    done('ran a command in a shell')
  }
  await page.getByRole('navigation').getByRole('link', { name: 'Overview' }).click()
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor()

  // On a phone.
  await page.setViewportSize({ width: 390, height: 844 })
  await usable('overview on a phone')
  await page.getByRole('button', { name: 'Menu' }).click()
  await page.getByRole('navigation').getByRole('link', { name: 'Pods' }).click()
  await page.getByRole('heading', { level: 1, name: 'Pods' }).waitFor()
  await page.getByRole('table', { name: 'Pods' }).waitFor()
  await usable('pods on a phone')

  // Leave: another tab of the same session is out, too.
  const tab = await context.newPage()
  await tab.goto(new URL('/console/pods', link).href)
  await tab.getByRole('heading', { level: 1, name: 'Pods' }).waitFor()
  await page.getByLabel(/^Logged in as/).click()
  await page.getByRole('button', { name: 'Log out' }).click()
  await page.getByRole('heading', { name: 'Log in to Gantry' }).waitFor()
  await tab.getByRole('heading', { name: 'Log in to Gantry' }).waitFor()
  await usable('login')
  done('logged out')
  assert.deepEqual(wrong, [], 'the page had errors')
} catch (e) {
  await page.screenshot({ path: failure, fullPage: true }).catch(() => {})
  console.error(`at ${page.url()}:`, e)
  console.error('errors of the page:', wrong)
  console.error(`a picture: ${failure}`)
  process.exitCode = 1
} finally {
  await browser.close()
}
