// A Chromium that talks to nobody but the pages it is shown, and what is looked for in every page.

import axe from 'axe-core'
import { chromium } from 'playwright-core'

const quiet = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']

/** Opens a browser whose page's errors, and violations of its security policy, are collected. */
export async function open(options = {}) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: quiet })
  // The certificate is of the instance's own authority.
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1360, height: 900 }, ...options })
  const page = await context.newPage()
  const wrong = []
  page.on('pageerror', e => wrong.push(e.message))
  page.on('console', m => { if (/Content Security Policy|TrustedHTML|Uncaught/i.test(m.text())) wrong.push(m.text()) })
  page.on('dialog', d => { wrong.push(`a dialog says ${d.message()}`); void d.dismiss() })
  page.on('request', r => { if (new URL(r.url()).hostname !== new URL(page.url()).hostname && page.url() !== 'about:blank') wrong.push(`a request went to ${r.url()}`) })
  return { browser, context, page, wrong }
}

/**
 * What makes a page hard to use: text of too little contrast (WCAG 2.2, 1.4.3), what can be pressed
 * without a name (4.1.2), more or less than one first heading, more width than the screen has (1.4.10).
 */
export function hardships(page) {
  return page.evaluate(() => {
    const found = []
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true })
    const rgba = color => {
      canvas.clearRect(0, 0, 1, 1)
      canvas.fillStyle = color
      canvas.fillRect(0, 0, 1, 1)
      return [...canvas.getImageData(0, 0, 1, 1).data]
    }
    const luminance = c => {
      const [r, g, b] = c.map(v => (v /= 255, v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
      return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const behind = e => {
      for (; e; e = e.parentElement) {
        const c = rgba(getComputedStyle(e).backgroundColor)
        if (c[3] > 250) return c
      }
      return [255, 255, 255]
    }
    const seen = e => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && !e.closest('.hidden, :disabled')
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    const told = new Set()
    while (texts.nextNode()) {
      const e = texts.currentNode.parentElement
      if (!texts.currentNode.data.trim() || !seen(e)) continue
      const a = luminance(rgba(getComputedStyle(e).color)), b = luminance(behind(e))
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
      const key = `${e.tagName}.${e.className}`
      if (ratio < 4.5 && !told.has(key)) { told.add(key); found.push(`contrast ${ratio.toFixed(2)} of "${texts.currentNode.data.trim().slice(0, 30)}" (${key})`) }
    }
    for (const e of document.querySelectorAll('button, a[href], input, select, textarea, summary, [role=meter], [role=img]')) {
      const name = e.ariaLabel || e.textContent.trim() || e.title || [...(e.labels ?? [])].map(l => l.textContent.trim()).join('')
      if (seen(e) && !name) found.push(`${e.outerHTML.slice(0, 80)} has no name`)
    }
    const first = [...document.querySelectorAll('h1')].filter(seen).length
    if (first !== 1) found.push(`${first} first headings`)
    if (document.documentElement.scrollWidth > innerWidth) found.push(`${document.documentElement.scrollWidth} pixels wide on a screen of ${innerWidth}`)
    return found
  })
}

const standards = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']

/** What axe-core finds wrong with a page. */
export async function violations(page) {
  await page.evaluate(axe.source) // as the debugger does, which the page's own policy does not bind
  return page.evaluate(async standards => (await window.axe.run(document, { runOnly: standards, resultTypes: ['violations'] })).violations
    .map(v => `${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map(n => n.html.slice(0, 120)).join(' | ')}${v.nodes.length > 3 ? ` and ${v.nodes.length - 3} more` : ''}`), standards)
}
