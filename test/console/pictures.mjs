// The pictures in docs/console: each page on a wide screen, light above and dark below a diagonal, and on a phone, light
// beside dark.

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const wide = { width: 1360, height: 900 }, phone = { width: 390, height: 844 }

/** Opens each path, waits until it shows what it is about, and keeps its pictures under its name. */
export async function takePictures(page, folder, paths) {
  mkdirSync(folder, { recursive: true })
  const draw = await page.context().newPage() // the console's own policy forbids what this takes
  const shoot = async () => {
    const shots = []
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme })
      await page.waitForTimeout(1500) // graphs are drawn anew
      await page.getByText('The connection is lost').waitFor({ state: 'detached' })
      shots.push((await page.screenshot()).toString('base64'))
    }
    return shots
  }
  for (const [name, path] of Object.entries(paths)) {
    // As a click in the page would: nothing is loaded anew.
    await page.evaluate(path => { history.pushState(null, '', '/console' + path); dispatchEvent(new PopStateEvent('popstate')) }, path)
    for (const [size, viewport] of Object.entries({ wide, phone })) {
      await page.setViewportSize(viewport)
      await page.locator('main h1').waitFor()
      await page.waitForFunction(() => !document.querySelector('main .skeleton') && !/Looking…|Loading…/.test(document.querySelector('main').textContent), null, { timeout: 60_000 })
      await page.waitForTimeout(2000) // several answers make a page
      writeFileSync(join(folder, `${name}-${size}.webp`), Buffer.from(await draw.evaluate(compose, [await shoot(), size]), 'base64'))
    }
  }
  await draw.close()
  await page.setViewportSize(wide)
  await page.emulateMedia({ colorScheme: 'light' })
}

/** Makes one picture of two, a tenth of what they were. */
async function compose([shots, size]) {
  const [light, dark] = await Promise.all(shots.map(async s => createImageBitmap(await (await fetch('data:image/png;base64,' + s)).blob())))
  const width = light.width * 0.8, height = light.height * 0.8, gap = 16
  const canvas = size === 'wide' ? new OffscreenCanvas(width, height) : new OffscreenCanvas(2 * width + gap, height), c = canvas.getContext('2d')
  c.imageSmoothingQuality = 'high'
  c.drawImage(light, 0, 0, width, height)
  if (size === 'wide') {
    const region = new Path2D()
    region.moveTo(width * 0.62, 0); region.lineTo(width, 0); region.lineTo(width, height); region.lineTo(width * 0.38, height)
    c.clip(region)
    c.drawImage(dark, 0, 0, width, height)
  } else c.drawImage(dark, width + gap, 0, width, height)
  const bytes = new Uint8Array(await (await canvas.convertToBlob({ type: 'image/webp', quality: 0.6 })).arrayBuffer())
  return btoa(Array.from(bytes, b => String.fromCharCode(b)).join(''))
}
