// Figures and times as people read them.

/** Reads a Kubernetes quantity such as 250m, 1.5, 128Mi, 1e3. NaN when it is none. */
export function quantity(text: string | undefined): number {
  const m = /^([+-]?[0-9.]+(?:e[+-]?[0-9]+)?)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$/i.exec(text ?? '')
  if (!m) return NaN
  const unit: Record<string, number> = {
    n: 1e-9, u: 1e-6, m: 1e-3, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18,
    Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40, Pi: 2 ** 50, Ei: 2 ** 60,
  }
  return Number(m[1]) * (m[2] ? unit[m[2]] ?? NaN : 1)
}

const digits = (v: number) => v >= 100 ? v.toFixed(0) : v >= 10 ? v.toFixed(1) : v.toFixed(2)
const trim = (s: string) => s.includes('.') ? s.replace(/\.?0+$/, '') : s
const none = '–'

export function bytes(v: number | null | undefined): string {
  if (v == null || !isFinite(v)) return none
  for (const [name, size] of [['TiB', 2 ** 40], ['GiB', 2 ** 30], ['MiB', 2 ** 20], ['KiB', 2 ** 10]] as const)
    if (Math.abs(v) >= size) return `${trim(digits(v / size))} ${name}`
  return `${Math.round(v)} B`
}

export function cores(v: number | null | undefined): string {
  if (v == null || !isFinite(v)) return none
  return Math.abs(v) < 0.0995 ? `${Math.round(v * 1000)}m` : trim(digits(v))
}

export function count(v: number | null | undefined): string {
  if (v == null || !isFinite(v)) return none
  for (const [name, size] of [['G', 1e9], ['M', 1e6], ['k', 1e3]] as const) if (Math.abs(v) >= size * 9.995) return trim(digits(v / size)) + name
  return trim(Math.abs(v) < 0.01 && v !== 0 ? v.toPrecision(2) : digits(v))
}

export const rate = (v: number | null | undefined) => v == null || !isFinite(v) ? none : `${count(v)}/s`

export function percent(v: number | null | undefined): string {
  if (v == null || !isFinite(v)) return none
  const p = v * 100
  return `${p !== 0 && Math.abs(p) < 0.1 ? p.toPrecision(1) : Math.abs(p) < 10 ? trim(p.toFixed(1)) : p.toFixed(0)} %`
}

/** A span in seconds: 870 µs, 12 ms, 3.4 s. */
export function seconds(v: number | null | undefined): string {
  if (v == null || !isFinite(v)) return none
  if (v === 0) return '0'
  if (v < 1e-3) return `${trim(digits(v * 1e6))} µs`
  if (v < 1) return `${trim(digits(v * 1e3))} ms`
  return v < 120 ? `${trim(digits(v))} s` : span(v * 1000)
}

/** A span in milliseconds as an age: 45s, 12m, 3h, 5d. */
export function span(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000))
  if (s < 120) return `${s}s`
  if (s < 7200) return s < 600 && s % 60 ? `${Math.floor(s / 60)}m${s % 60}s` : `${Math.floor(s / 60)}m`
  if (s < 48 * 3600) return `${Math.floor(s / 3600)}h`
  return `${Math.floor(s / 86400)}d`
}

export const units = { bytes, cores, count, rate, percent, seconds, bytesPerSecond: (v: number | null | undefined) => v == null || !isFinite(v) ? none : bytes(v) + '/s' }
export type Unit = keyof typeof units

/** The name of an image without its registry, and its tag or a short digest. */
export function imageName(image: string): { name: string; tag: string } {
  const [ref, digest] = image.split('@')
  const slash = ref.lastIndexOf('/'), colon = ref.indexOf(':', slash + 1)
  const path = colon < 0 ? ref : ref.slice(0, colon)
  const parts = path.split('/')
  if (parts.length > 1 && /[.:]|^localhost$/.test(parts[0])) parts.shift()
  return { name: parts.join('/'), tag: colon >= 0 ? ref.slice(colon + 1) : digest ? digest.replace(/^sha256:/, '').slice(0, 12) : 'latest' }
}

export const plural = (n: number, one: string, many = one + 's') => `${n} ${n === 1 ? one : many}`
