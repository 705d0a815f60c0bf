// Tables: sorted by any column, filtered by text, a row is a link.

import type { ComponentChildren } from 'preact'
import { useMemo, useState } from 'preact/hooks'
import { choose, usePlace } from '../router'
import { Empty } from './parts'
import { Icon } from './icons'

export interface Column<T> {
  key: string
  title: string
  cell: (row: T) => ComponentChildren
  /** What rows are sorted by; without, the column cannot be. */
  by?: (row: T) => string | number
  right?: boolean
  /** Left out on narrow screens. */
  wide?: boolean
}

interface Props<T> {
  label: string
  rows: T[]
  columns: Column<T>[]
  id: (row: T) => string
  /** The text that the filter looks in. Without, there is no filter. */
  text?: (row: T) => string
  empty: ComponentChildren
  loading?: boolean
  sort?: string
  tools?: ComponentChildren
  /** Rows stand in groups with a heading each, in the order of groups. */
  group?: (row: T) => string
  groups?: (a: string, b: string) => number
}

const shown = 300

export function Table<T>({ label, rows, columns, id, text, empty, loading, sort: first, tools, group, groups }: Props<T>) {
  const filter = usePlace().query.get('text') ?? ''
  const [sort, setSort] = useState(first ?? columns[0].key)
  const [most, setMost] = useState(shown)
  const list = useMemo(() => {
    const words = filter.toLowerCase().split(/\s+/).filter(Boolean)
    const left = text && words.length ? rows.filter(r => { const t = text(r).toLowerCase(); return words.every(w => t.includes(w)) }) : rows.slice()
    const down = sort.startsWith('-'), by = columns.find(c => c.key === sort.replace('-', ''))?.by
    if (by) left.sort((a, b) => {
      const x = by(a), y = by(b)
      const order = typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true })
      return (down ? -order : order) || id(a).localeCompare(id(b))
    })
    if (group) left.sort((a, b) => groups?.(group(a), group(b)) ?? group(a).localeCompare(group(b))) // which keeps the order within
    return left
  }, [rows, filter, sort, columns])
  return <div class="table">
    {(text || tools) && <div class="tools">
      {text && <label class="filter"><Icon name="search" /><span class="hidden">Filter {label.toLowerCase()}</span>
        <input type="search" placeholder="Filter" value={filter} onInput={e => choose('text', e.currentTarget.value)} /></label>}
      {tools}
      <span class="faint tally" role="status">{loading ? 'Loading…' : list.length === rows.length ? `${rows.length}` : `${list.length} of ${rows.length}`}</span>
    </div>}
    {list.length > 0 && <table aria-label={label} role="table">
      <thead role="rowgroup"><tr role="row">{columns.map(c => {
        const on = sort.replace('-', '') === c.key
        return <th key={c.key} role="columnheader" scope="col" class={cls(c)} aria-sort={on ? (sort.startsWith('-') ? 'descending' : 'ascending') : undefined}>
          {c.by ? <button type="button" onClick={() => setSort(on && !sort.startsWith('-') ? '-' + c.key : c.key)}>{c.title}<span class="arrow" aria-hidden="true">{on ? (sort.startsWith('-') ? ' ↓' : ' ↑') : ''}</span></button> : c.title}
        </th>
      })}</tr></thead>
      <tbody role="rowgroup">{list.slice(0, most).flatMap((r, i) => [
        group && (i === 0 || group(r) !== group(list[i - 1])) && <tr key={'group ' + group(r)} role="row" class="group"><th role="rowheader" scope="rowgroup" colSpan={columns.length}>{group(r)} <span>{list.filter(o => group(o) === group(r)).length}</span></th></tr>,
        <tr key={id(r)} role="row">{columns.map(c => <td key={c.key} role="cell" class={cls(c)} data-title={c.title}>{c.cell(r)}</td>)}</tr>,
      ])}</tbody>
    </table>}
    {list.length > most && <button type="button" class="more" onClick={() => setMost(most * 2)}>Show {Math.min(most, list.length - most)} more</button>}
    {!loading && list.length === 0 && (rows.length ? <Empty icon="search" title="Nothing matches">No {label.toLowerCase()} with “{filter}”.</Empty> : empty)}
    {loading && rows.length === 0 && <div class="skeleton" aria-hidden="true"><i /><i /><i /></div>}
  </div>
}

const cls = <T,>(c: Column<T>) => `${c.right ? 'right ' : ''}${c.wide ? 'wide' : ''}`
