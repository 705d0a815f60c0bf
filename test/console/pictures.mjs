// The pictures in docs/console: every page of the menu and one of each object, in two sizes.

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const sizes = { wide: { width: 1360, height: 900 }, phone: { width: 390, height: 844 } }

export async function takePictures(page, { namespace, workload, folder, kubectl }) {
  mkdirSync(folder, { recursive: true })
  const pod = kubectl('-n', namespace, 'get', 'pods', '-o', 'name').split('\n').find(p => p.startsWith(`pod/${workload}-`)).slice(4)
  await page.setViewportSize(sizes.wide)
  const menu = await page.getByRole('navigation').getByRole('link').evaluateAll(links => links.map(l => l.pathname.slice('/console'.length)))
  const paths = [...menu, `/workloads/${namespace}/deployment/${workload}`, `/pods/${namespace}/${pod}`, `/namespaces/${namespace}`]
  const names = new Map([[`/workloads/${namespace}/deployment/${workload}`, 'workload'], [`/pods/${namespace}/${pod}`, 'pod'], [`/namespaces/${namespace}`, 'namespace']])
  const encode = await page.context().newPage() // the console's own policy forbids what this takes
  for (const [size, viewport] of Object.entries(sizes)) {
    await page.setViewportSize(viewport)
    for (const path of paths) {
      // As a click in the page would: nothing is loaded anew.
      await page.evaluate(path => { history.pushState(null, '', '/console' + path); dispatchEvent(new PopStateEvent('popstate')) }, path)
      await page.waitForTimeout(2500)
      const name = names.get(path) ?? (path === '/' ? 'overview' : path.slice(1).replaceAll('/', '-'))
      const webp = await encode.evaluate(toWebP, 'data:image/png;base64,' + (await page.screenshot()).toString('base64'))
      writeFileSync(join(folder, `${name}-${size}.webp`), Buffer.from(webp, 'base64'))
    }
  }
  await encode.close()
}

/** Encodes a picture anew, as a tenth of what it was. */
async function toWebP(png) {
  const image = await createImageBitmap(await (await fetch(png)).blob())
  const canvas = new OffscreenCanvas(image.width, image.height)
  canvas.getContext('2d').drawImage(image, 0, 0)
  const bytes = new Uint8Array(await (await canvas.convertToBlob({ type: 'image/webp', quality: 0.8 })).arrayBuffer())
  return btoa(Array.from(bytes, b => String.fromCharCode(b)).join(''))
}
