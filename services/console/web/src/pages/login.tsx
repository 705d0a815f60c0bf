// The login: a link of `gantry console`, or a token.

import { useEffect, useState } from 'preact/hooks'
import { go, place } from '../router'
import { logIn, session } from '../session'
import { Icon } from '../ui/icons'

// Read once and taken out of the address at once, so that neither history nor bookmarks have it.
const code = place.get().path === '/login' ? decodeURIComponent(location.hash.slice(1)) : ''
if (code) history.replaceState(null, '', location.pathname)

const onward = () => { if (place.get().path === '/login') go('/', true) }

export function Login({ why }: { why?: string }) {
  const [error, setError] = useState(why ?? '')
  const [busy, setBusy] = useState(false)
  const [token, setToken] = useState('')
  const already = session.get().is === 'in'
  const attempt = async (credentials: { token: string } | { code: string }) => {
    setBusy(true)
    setError('')
    try {
      await logIn(credentials)
      onward()
    } catch (e) {
      setError(e instanceof Error ? e.message : String(e))
      setBusy(false)
    }
  }
  useEffect(() => {
    // A link never replaces a login: who is logged in would go on as somebody else.
    if (already) onward()
    else if (code) void attempt({ code })
  }, [])
  return <main class="login">
    <form onSubmit={e => { e.preventDefault(); void attempt({ token }) }}>
      <svg viewBox="0 0 32 32" width="36" height="36" aria-hidden="true"><rect width="32" height="32" rx="7" class="brand-back" /><path d="M6 10h20M9 10v14M23 10v14M16 10v6" class="brand-line" /><rect x="13" y="16" width="6" height="5" rx="1" class="brand-load" /></svg>
      <h1>Log in to Gantry</h1>
      <p class="faint">With the cluster’s own identities. You see and do what your account may.</p>
      {error && <p class="notice" role="alert"><Icon name="warn" /> {error}</p>}
      <ol>
        <li><p>On the machine, run</p><pre>gantry console</pre><p class="faint">and open the link that it prints.</p></li>
        <li><p><label for="token">Or paste a token</label></p>
          <textarea id="token" rows={3} spellcheck={false} autocomplete="off" value={token} placeholder="kubectl create token ACCOUNT -n NAMESPACE" onInput={e => setToken(e.currentTarget.value)}
            onKeyDown={e => { if (e.key === 'Enter') { e.preventDefault(); e.currentTarget.form!.requestSubmit() } }} />
          <button type="submit" class="primary" disabled={busy || !token.trim()}>{busy ? 'Logging in…' : 'Log in'}</button>
        </li>
      </ol>
    </form>
  </main>
}
