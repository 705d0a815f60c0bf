// A shell in a container: exec over a WebSocket (KEP-4006), shown by xterm.js.

import { FitAddon } from '@xterm/addon-fit'
import { Terminal } from '@xterm/xterm'
import '@xterm/xterm/css/xterm.css'
import { useEffect, useRef, useState } from 'preact/hooks'
import { pathOf } from '../kube/paths'
import { openSocket } from '../session'
import { Icon } from './icons'

// v5.channel.k8s.io: each message begins with the number of its channel.
const protocol = 'v5.channel.k8s.io'
const channel = { stdin: 0, stdout: 1, stderr: 2, status: 3, resize: 4 } as const

const command = ['sh', '-c', 'command -v bash >/dev/null && exec bash || exec sh']

interface Props { namespace: string; pod: string; containers: string[]; onClose: () => void }

export default function Shell({ namespace, pod, containers, onClose }: Props) {
  const [container, setContainer] = useState(containers[0])
  const [ended, setEnded] = useState('')
  const [attempt, setAttempt] = useState(0)
  const box = useRef<HTMLDivElement>(null)
  useEffect(() => {
    setEnded('')
    const css = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()
    const dropStyles = adoptStyles()
    const terminal = new Terminal({
      fontFamily: css('--mono'), fontSize: 12.5, cursorBlink: true, scrollback: 5000,
      theme: { background: '#14171d', foreground: '#e5e8ee', cursor: '#8aa2ff', selectionBackground: '#3b4a7a' }, screenReaderMode: true,
    })
    const fit = new FitAddon()
    terminal.loadAddon(fit)
    terminal.open(box.current!)
    fit.fit()
    const query = new URLSearchParams({ container, stdin: 'true', stdout: 'true', stderr: 'true', tty: 'true' })
    for (const part of command) query.append('command', part)
    const socket = openSocket(`${pathOf('pods', namespace, pod)}/exec?${query}`, protocol)
    socket.binaryType = 'arraybuffer'
    const encoder = new TextEncoder()
    const send = (to: number, text: string) => {
      if (socket.readyState !== WebSocket.OPEN) return
      const body = encoder.encode(text), message = new Uint8Array(body.length + 1)
      message[0] = to
      message.set(body, 1)
      socket.send(message)
    }
    const size = () => { fit.fit(); send(channel.resize, JSON.stringify({ Width: terminal.cols, Height: terminal.rows })) }
    let opened = false, status = ''
    socket.onopen = () => { opened = true; size(); terminal.focus() }
    socket.onmessage = e => {
      const message = new Uint8Array(e.data as ArrayBuffer)
      if (message[0] === channel.stdout || message[0] === channel.stderr) terminal.write(message.subarray(1))
      if (message[0] === channel.status) status = JSON.parse(new TextDecoder().decode(message.subarray(1))).message ?? ''
    }
    socket.onclose = () => setEnded(opened ? status || 'The shell has ended.' : 'No shell could be opened: you may not, or the container has none.')
    const typed = terminal.onData(text => send(channel.stdin, text))
    const sized = new ResizeObserver(size)
    sized.observe(box.current!)
    return () => { sized.disconnect(); typed.dispose(); socket.onclose = null; socket.close(); terminal.dispose(); dropStyles() }
  }, [namespace, pod, container, attempt])
  return <section class="panel shell" aria-label="Shell">
    <header><h2>Shell</h2><div class="aside">
      {containers.length > 1 && <select aria-label="Container" value={container} onChange={e => setContainer(e.currentTarget.value)}>{containers.map(c => <option key={c}>{c}</option>)}</select>}
      {ended && <><span class="faint" role="status">{ended}</span><button type="button" onClick={() => setAttempt(attempt + 1)}>Open again</button></>}
      <button type="button" class="icon-button" aria-label="Close the shell" onClick={onClose}><Icon name="close" /></button>
    </div></header>
    <div ref={box} class="screen" />
  </section>
}

/**
 * Makes style sheets of the style elements that are created until the answer is called. xterm.js writes its rules
 * as text into <style>, which the content security policy forbids for good reason; sheets that a script of
 * the page itself makes are allowed.
 */
function adoptStyles(): () => void {
  const sheets = new Set<CSSStyleSheet>()
  const create = Document.prototype.createElement
  document.createElement = ((tag: string, options?: ElementCreationOptions) => {
    if (tag !== 'style') return create.call(document, tag, options)
    const sheet = new CSSStyleSheet()
    sheets.add(sheet)
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet]
    const element = create.call(document, 'template') // stands in the tree and shows nothing
    Object.defineProperty(element, 'textContent', { get: () => '', set: (text: string) => sheet.replaceSync(text) })
    Object.defineProperty(element, 'sheet', { get: () => sheet })
    return element
  }) as typeof document.createElement
  return () => {
    delete (document as { createElement?: unknown }).createElement // the prototype's shows again
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter(s => !sheets.has(s))
  }
}
