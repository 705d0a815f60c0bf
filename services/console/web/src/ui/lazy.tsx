import type { ComponentType } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { Empty } from './parts'

/** A component that is loaded when it is first shown. */
export function Lazy<P extends object>({ load, props }: { load: () => Promise<{ default: ComponentType<P> }>; props: P }) {
  const [Component, set] = useState<ComponentType<P> | null>(null)
  const [error, setError] = useState('')
  useEffect(() => { load().then(m => set(() => m.default), e => setError(String(e))) }, [])
  if (error) return <Empty icon="warn" title="A part of this page could not be loaded">{error}</Empty>
  return Component && <Component {...props} />
}
