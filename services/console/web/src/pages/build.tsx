// One build: how far it is, its log as it is written, and the images that came out.

import { useEffect, useRef, useState } from 'preact/hooks'
import type { PageProps } from '../pages'
import { Link, pathTo } from '../router'
import { ask, Refusal } from '../session'
import { useKind } from '../kube/paths'
import { parseLine } from '../logs'
import { ended, healthOfBuild, phasesOf, type Build } from '../builds'
import { digestOf, isImage, pageOfImage, useImages } from '../images'
import { Severities } from '../ui/severities'
import { span } from '../format'
import { Age, Empty, loading, PageHead, Panel, Skeleton, Status, Trouble } from '../ui/parts'
import '../style/logs.css'
import '../style/build.css'
import '../style/images.css'

export default function BuildPage({ params: { namespace, name } }: PageProps) {
  const list = useKind<Build>('builds', namespace), b = list.items.find(x => x.metadata.name === name), above = <Link to="/builds">Builds</Link>
  if (!b) return <><PageHead title={name} above={above} /><Trouble of={[list]} />{loading(list) ? <Skeleton /> : list.state !== 'refused' && <Panel><Empty icon="builds" title="There is no such build">It was removed, or never was.</Empty></Panel>}</>
  const s = b.status ?? {}
  return <>
    <PageHead title={`${b.spec.pipeline} #${b.spec.number}`} above={<>{above} / {namespace}</>}
      says={<><Status health={healthOfBuild(b)}>{s.reason ?? s.phase ?? 'Pending'}</Status> <span class="faint">{s.commit && <><code>{s.commit.short ?? s.commit.id.slice(0, 7)}</code> <bdi>{s.commit.message}</bdi> · <bdi>{s.commit.author}</bdi> · </>}{s.durationSeconds ? `took ${span(s.durationSeconds * 1000)}` : <Age at={b.metadata.creationTimestamp} />}</span></>} />
    {s.message && <p class={s.phase === 'Failed' ? 'notice' : 'faint'} role={s.phase === 'Failed' ? 'alert' : undefined}>{s.message}</p>}
    <ol class="phases">{phasesOf(b).map(p => <li key={p.name} class={p.is} aria-current={p.is === 'now' ? 'step' : undefined}><b>{p.name}</b><span>{p.says || '–'}</span></li>)}</ol>
    {s.images && s.images.length > 0 && <Images b={b} />}
    {s.deployment && <Panel title="Deployed"><div class="body"><Status health={s.deployment.ready ? 'ok' : 'bad'}>{s.deployment.rolledBackTo ? `Rolled back to #${s.deployment.rolledBackTo}` : s.deployment.ready ? 'Ready' : 'Not ready'}</Status>
      {s.deployment.namespace && <> in <Link to={pathTo('namespaces', s.deployment.namespace)}>{s.deployment.namespace}</Link></>}{s.deployment.urls?.length ? <span class="faint"> at {s.deployment.urls.join(', ')}</span> : null}</div></Panel>}
    <BuildLog namespace={namespace} name={name} over={ended(b)} />
  </>
}

function Images({ b }: { b: Build }) {
  const known = useImages().value?.images ?? []
  return <Panel title="Images"><ul class="rows">{b.status!.images!.map(i => {
    const digest = digestOf(i.reference), image = known.find(k => k.repository === i.name && isImage(k, digest)), title = <><b>{i.name}</b>{i.tag && <span class="faint">:{i.tag}</span>}</>
    return <li key={i.name}><Status health={i.signed ? 'ok' : 'bad'}>{i.signed ? 'Signed' : 'Not signed'}</Status>
      <span>{digest ? <Link to={pageOfImage(i.name, digest)} class="name">{title}</Link> : title} {image?.base && <span class="faint">on {image.base.repository}:{image.base.tag}</span>}<br /><span class="faint anywhere">{i.signMessage || i.reference}</span></span>
      <span class="facts">{image?.scan ? <Severities scan={image.scan} /> : i.scan}{[i.provenance && 'provenance', i.sbom && 'SBOM'].filter(Boolean).map(t => <span key={String(t)}>{t}</span>)}</span></li>
  })}</ul></Panel>
}

const kept = 4000

function BuildLog({ namespace, name, over }: { namespace: string; name: string; over: boolean }) {
  const [lines, set] = useState<string[]>([]), [error, setError] = useState(''), [stuck, setStuck] = useState(true), box = useRef<HTMLDivElement>(null), done = useRef(over)
  done.current = over
  useEffect(() => {
    const stop = new AbortController()
    let offset = 0, rest = ''
    const read = async () => {
      const r = await ask(`/apis/delivery.gantry.dev/v1alpha1/namespaces/${encodeURIComponent(namespace)}/buildlogs/${encodeURIComponent(name)}?follow=true&offset=${offset}`, { signal: stop.signal })
      const reader = r.body!.getReader(), decoder = new TextDecoder()
      for (;;) {
        const { done, value } = await reader.read()
        if (done) return
        offset += value.byteLength
        const parts = (rest + decoder.decode(value, { stream: true })).split('\n')
        rest = parts.pop()!.slice(-16384)
        if (parts.length) set(was => [...was, ...parts.map(p => parseLine(' ' + p.slice(0, 16384)).text.slice(1))].slice(-kept))
      }
    }
    const run = async () => {
      while (!stop.signal.aborted) {
        const before = offset, over = done.current
        try { await read(); setError('') } catch (e) {
          if (stop.signal.aborted) return
          setError(e instanceof Error ? e.message : String(e))
          if (over && e instanceof Refusal && e.status === 404) return
        }
        if (over && offset === before) return // everything was read after its end
        await new Promise(r => setTimeout(r, 1000))
      }
    }
    void run()
    return () => stop.abort()
  }, [namespace, name])
  useEffect(() => { if (stuck && box.current) box.current.scrollTop = box.current.scrollHeight }, [lines, stuck])
  return <Panel title="Log" aside={<span class="faint">{lines.length || ''}</span>} class="log found">
    {lines.length === 0 ? <Empty icon="logs" title={error || (over ? 'There is no log' : 'Nothing was written yet')} />
      : <div class="lines" ref={box} role="log" aria-live="off" tabIndex={0} aria-label="Log of the build" onScroll={e => { const b = e.currentTarget; setStuck(b.scrollHeight - b.scrollTop - b.clientHeight < 30) }}>
        {lines.map((l, i) => <div key={i} class={/\b(error|failed|fatal)\b/i.test(l) ? 'bad' : ''}>{l || ' '}</div>)}</div>}
  </Panel>
}
