// Who is logged in, and requests in their name. The token stays with the server: the browser holds a
// cookie that scripts cannot read, and the proof kept here, without which the cookie is worth nothing.

import { createStore } from './store'

export interface User { name: string; groups: string[] }
export interface Session { user: User; expires: string }

type State = { is: 'unknown' } | { is: 'out'; why?: string } | { is: 'in'; session: Session }

const base = '/console/'
const proofKey = 'gantry.proof'
const proofHeader = 'X-Gantry-Console'

export const session = createStore<State>({ is: 'unknown' })

const proof = () => localStorage.getItem(proofKey) ?? ''

/** An answer of the API that is no success, with the API's own words. */
export class Refusal extends Error {
  constructor(readonly status: number, message: string, readonly reason = '') { super(message) }
}

async function refusalOf(r: Response): Promise<Refusal> {
  const text = await r.text().catch(() => '')
  try {
    const status = JSON.parse(text)
    return new Refusal(r.status, status.message ?? status.error ?? r.statusText, status.reason ?? status.errorType ?? '')
  } catch {
    return new Refusal(r.status, text.trim().slice(0, 300) || r.statusText || `status ${r.status}`)
  }
}

/** Asks the API's address for a path such as /api/v1/pods; throws a Refusal unless it succeeds. */
export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers)
  headers.set(proofHeader, proof())
  const r = await fetch(base + 'api' + path, { ...init, headers })
  if (r.ok) return r
  const refusal = await refusalOf(r)
  if (r.status === 401) ended(refusal.message)
  throw refusal
}

export async function askJSON<T>(path: string, init?: RequestInit): Promise<T> {
  return (await ask(path, { ...init, headers: { Accept: 'application/json', ...init?.headers } })).json()
}

/** Sends a body as JSON. The type of a patch is told by its content type. */
export function send<T>(method: string, path: string, body: unknown, type = 'application/json'): Promise<T> {
  return askJSON<T>(path, { method, body: JSON.stringify(body), headers: { 'Content-Type': type } })
}

/** Opens a WebSocket to the API; browsers let it carry the proof as a protocol only. */
export function openSocket(path: string, protocol: string): WebSocket {
  const url = new URL(base + 'api' + path, location.href)
  url.protocol = url.protocol === 'http:' ? 'ws:' : 'wss:'
  return new WebSocket(url, [protocol, 'gantry.console.' + proof()])
}

function ended(why?: string) {
  localStorage.removeItem(proofKey)
  if (session.get().is !== 'out') session.set({ is: 'out', why })
}

/** Finds out whether this browser is logged in. */
export async function resume(): Promise<void> {
  if (!proof()) return session.set({ is: 'out' })
  const r = await fetch(base + 'session', { headers: { [proofHeader]: proof() } }).catch(() => null)
  if (r?.ok) session.set({ is: 'in', session: await r.json() })
  else ended(r ? undefined : 'The server does not answer.')
}

/** Logs in with a token or with the code of a link. */
export async function logIn(credentials: { token: string } | { code: string }): Promise<void> {
  const r = await fetch(base + 'session', {
    method: 'POST', body: JSON.stringify(credentials), headers: { 'Content-Type': 'application/json', [proofHeader]: 'login' },
  })
  if (!r.ok) throw await refusalOf(r)
  const { proof: secret, ...rest } = await r.json()
  localStorage.setItem(proofKey, secret)
  session.set({ is: 'in', session: rest })
}

export async function logOut(): Promise<void> {
  await fetch(base + 'session', { method: 'DELETE', headers: { [proofHeader]: proof() } }).catch(() => null)
  ended()
}

// A log-out in one tab is one in all.
addEventListener('storage', e => { if (e.key === proofKey) void resume() })
