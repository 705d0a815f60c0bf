import { structured } from '../logs'

/** The text of a log's line; what was written as JSON is told for people, and is whole in its title. */
export function LineText({ text, raw }: { text: string; raw?: boolean }) {
  const s = raw ? null : structured(text)
  return s ? <span title={text}><b>{s.says}</b>{s.fields.map(([k, v]) => <span key={k}> <span class="faint">{k}=</span>{v}</span>)}</span> : <>{text}</>
}

/** How loud a line is: by the level that is known of it, that it says itself, or else by its words. */
export function toneOf(text: string, known = ''): 'bad' | 'warn' | '' {
  const level = known || structured(text)?.level
  if (level) return /error|fatal|panic|crit/.test(level) ? 'bad' : level.startsWith('warn') ? 'warn' : ''
  return /\b(error|fatal|panic|exception|failed)\b/i.test(text) ? 'bad' : /\bwarn(ing)?\b/i.test(text) ? 'warn' : ''
}
