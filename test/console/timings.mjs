// How long each page takes until it can be used: opened by its address, with nothing in memory, and
// reached by a click. Prints one line of JSON.

import { open } from './browser.mjs'

const { link, paths, runs } = JSON.parse(process.argv[2])
const { browser, page, wrong } = await open()

/** A page can be used when it has its heading and what it shows of the API, not its skeleton. */
const usable = () => {
  const main = document.querySelector('main#main')
  return !!main?.querySelector('h1') && !main.querySelector('.skeleton') && !/Looking…|Loading…/.test(main.textContent) &&
    !!main.querySelector('tbody tr, .rows li, .empty, .chart, svg')
}
const median = list => list.sort((a, b) => a - b)[Math.floor(list.length / 2)]

await page.addInitScript(`window.usable = ${usable}`)
await page.goto(link)
await page.waitForFunction(usable)
const found = {}
const menu = await page.getByRole('navigation').getByRole('link').evaluateAll(links => links.map(l => l.pathname.slice('/console'.length)))
for (const path of [...menu, ...paths]) {
  const cold = [], warm = []
  for (let i = 0; i < runs; i++) {
    const began = performance.now()
    await page.goto(new URL('/console' + path, link).href, { waitUntil: 'commit' })
    await page.waitForFunction(usable)
    cold.push(performance.now() - began)
    warm.push(await page.evaluate(async path => {
      const go = path => { history.pushState(null, '', '/console' + path); dispatchEvent(new PopStateEvent('popstate')) }
      go('/none')
      await new Promise(requestAnimationFrame)
      const began = performance.now()
      go(path)
      do await new Promise(requestAnimationFrame); while (!window.usable())
      return performance.now() - began
    }, path))
  }
  found[path] = { cold: median(cold), warm: median(warm) }
}
console.log(JSON.stringify({ found, wrong }))
await browser.close()
