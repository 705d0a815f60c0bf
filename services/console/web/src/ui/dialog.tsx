// Questions before something is changed, and what came of it.

import type { ComponentChildren } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { createStore, useStore } from '../store'

interface Props {
  title: string
  children: ComponentChildren
  /** What the button says: the deed, not "OK". */
  deed: string
  danger?: boolean
  onClose: () => void
  act: () => Promise<string>
}

/** Asks, does it, and says what was done; what was refused is said in the dialog, which stays. */
export function Confirm({ title, children, deed, danger, onClose, act }: Props) {
  const box = useRef<HTMLDialogElement>(null)
  const [error, setError] = useState('')
  const [busy, setBusy] = useState(false)
  useEffect(() => box.current!.showModal(), [])
  const submit = async (e: Event) => {
    e.preventDefault()
    setBusy(true)
    setError('')
    try {
      tell(await act())
      onClose()
    } catch (e) {
      setError(e instanceof Error ? e.message : String(e))
      setBusy(false)
    }
  }
  return <dialog ref={box} class="confirm" aria-label={title} onClose={onClose}>
    <form onSubmit={submit}>
      <h2>{title}</h2>
      <div class="text">{children}</div>
      {error && <p class="notice" role="alert">{error}</p>}
      <footer><button type="button" onClick={onClose}>Cancel</button><button type="submit" class={danger ? 'primary harm' : 'primary'} disabled={busy}>{busy ? 'Working…' : deed}</button></footer>
    </form>
  </dialog>
}

const said = createStore<{ text: string; at: number } | null>(null)

/** Says something in a corner for some seconds. */
export function tell(text: string) {
  const mine = { text, at: Date.now() }
  said.set(mine)
  setTimeout(() => { if (said.get() === mine) said.set(null) }, 5000)
}

export function Told() {
  const now = useStore(said)
  return <div class="told" role="status" aria-live="polite">{now && <p key={now.at}>{now.text}</p>}</div>
}
