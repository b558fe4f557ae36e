// The results table. Rows are drawn only where they can be seen.
//
// Invariant: whatever the number of rows, the table holds at most those in view plus a margin; two spacer rows stand
// for the others, every row has the same height (so line breaks in values are shown as signs), and the column widths
// are fixed before the first is drawn, so that nothing moves while it scrolls. A result of 100 000 rows costs what one
// of 100 does. Short results are drawn whole, and their values keep their lines: query plans are such.

import type { ColumnInfo } from 'kalamdb'
import { el } from './dom'
import { formatValue, isNumeric } from './format'

const rowHeight = 28
const margin = 12

/** Results of up to so many rows are drawn whole. */
const shortResult = 100

type Row = Record<string, unknown>

/** Draws rows into `box`, a scrolling element, in place of what it showed. */
export function showGrid(box: HTMLElement, columns: readonly ColumnInfo[], rows: readonly Row[]): void {
  box.scrollTo(0, 0)
  const digits = String(rows.length).length
  const short = rows.length <= shortResult
  const widths = columns.map(column => width(column, rows))
  const top = el('tr', { class: 'spacer', 'aria-hidden': 'true' })
  const bottom = el('tr', { class: 'spacer', 'aria-hidden': 'true' })
  const body = el('tbody', {}, top, bottom)
  const table = el(
    'table',
    { 'aria-rowcount': String(rows.length + 1), style: `width: ${widths.reduce((sum, ch) => sum + ch, digits + 4)}ch` },
    el(
      'colgroup',
      {},
      el('col', { style: `width: ${digits + 4}ch` }),
      ...widths.map(ch => el('col', { style: `width: ${ch}ch` })),
    ),
    el(
      'thead',
      {},
      el(
        'tr',
        { 'aria-rowindex': '1' },
        el('th', { class: 'index', scope: 'col' }, el('span', { class: 'visually-hidden' }, 'Row')),
        ...columns.map(column =>
          el(
            'th',
            { scope: 'col', class: isNumeric(column.type) ? 'number' : '', title: `${column.name} ${column.type}` },
            el('span', { class: 'column-name' }, column.name),
            el('span', { class: 'column-type' }, column.type),
          ),
        ),
      ),
    ),
    body,
  )

  let from = -1
  let to = -1
  const draw = () => {
    const first = short ? 0 : Math.max(0, Math.floor(box.scrollTop / rowHeight) - margin)
    const inView = Math.ceil((box.scrollTop + box.clientHeight) / rowHeight) + margin
    const last = short ? rows.length : Math.min(rows.length, inView)
    if (first === from && last === to) return
    from = first
    to = last
    const shown: HTMLElement[] = []
    for (let at = first; at < last; at++) shown.push(rowElement(at, columns, rows[at] ?? {}, short))
    top.style.height = `${first * rowHeight}px`
    bottom.style.height = `${(rows.length - last) * rowHeight}px`
    body.replaceChildren(top, ...shown, bottom)
  }
  box.replaceChildren(table)
  box.onscroll = draw
  observer?.disconnect()
  observer = new ResizeObserver(draw)
  observer.observe(box)
  draw()
}

let observer: ResizeObserver | undefined

/** Empties the table and says why there are no rows. */
export function showNote(box: HTMLElement, ...content: (Node | string)[]): void {
  observer?.disconnect()
  box.onscroll = null
  box.scrollTo(0, 0)
  box.replaceChildren(el('div', { class: 'empty' }, ...content))
}

function rowElement(at: number, columns: readonly ColumnInfo[], row: Row, short: boolean): HTMLElement {
  const tr = el('tr', { 'aria-rowindex': String(at + 2) }, el('td', { class: 'index' }, String(at + 1)))
  for (const { name, type } of columns) {
    const value = row[name]
    if (value === null || value === undefined) {
      tr.append(el('td', { class: `null${isNumeric(type) ? ' number' : ''}` }, 'NULL'))
      continue
    }
    const whole = formatValue(value, type)
    const text = short ? whole : whole.replaceAll('\n', '⏎')
    const limit = short ? 20_000 : 400
    const cell = el(
      'td',
      isNumeric(type) ? { class: 'number' } : {},
      text.length > limit ? `${text.slice(0, limit)}…` : text,
    )
    if (text.length > 24) cell.title = whole.slice(0, 4000)
    tr.append(cell)
  }
  return tr
}

// In characters: the heading or the longest of the first values, within bounds.
function width(column: ColumnInfo, rows: readonly Row[]): number {
  let most = 60
  let longest = Math.max(column.name.length, column.type.length * 0.9)
  for (const row of rows.slice(0, 200)) {
    const value = row[column.name]
    if (value === null || value === undefined) continue
    const text = formatValue(value, column.type)
    const lines = text.split('\n')
    if (lines.length > 1) most = 120
    longest = Math.max(longest, ...lines.map(line => line.length))
  }
  return Math.ceil(Math.min(Math.max(longest, 4), most)) + 4
}
