// Loads the console's TypeScript into Node as it is: types are taken out, styles are nothing, and what it
// needs of npm comes from here, so that the pages' own build is not needed.

import { register } from 'node:module'

// What modules take from the browser when they are loaded.
Object.assign(globalThis, {
  window: globalThis, addEventListener: () => {}, dispatchEvent: () => true,
  document: { hidden: false, documentElement: { dataset: {} }, addEventListener: () => {} },
  location: { pathname: '/console/pods', search: '?text=cart', hash: '', href: 'https://gantry.test/console/pods' },
  navigator: { language: 'en' }, getComputedStyle: () => ({ getPropertyValue: () => '' }), devicePixelRatio: 1,
  matchMedia: () => ({ matches: false, addEventListener: () => {} }),
  localStorage: { getItem: () => null, setItem: () => {}, removeItem: () => {} },
})
const { setInterval } = globalThis
globalThis.setInterval = (...args) => setInterval(...args).unref()

register('./hooks.mjs', import.meta.url)

export const load = path => import(new URL('../../services/console/web/src/' + path, import.meta.url).href)
