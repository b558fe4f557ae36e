// The playground: opens the database that the address names and ties editor, results, tables and samples together.
//
// Invariant: one run at a time, and what is on screen (time, rows, error) always belongs to the last run that was
// started. The database is opened once; an error while opening leaves a way to try again, not a dead page.
//
// For automation (the demo, the end-to-end tests, your own console) the page sets
//   window.kalam = { db, ready, openMs }
// `ready` resolves when the database is open, and rejects with the error if it cannot be; `db` is the SDK's Database
// from then on; `openMs` is how long opening took.

import { type ColumnInfo, connect, type Database, KalamError } from 'kalamdb'
import examples from '../examples.json'
import { byId, el } from './dom'
import { createEditor } from './editor'
import { showError } from './errors'
import { formatBytes, formatCount, formatMs, formatRows } from './format'
import { showGrid, showNote } from './grid'
import { wireSample } from './sample'
import { type Statement, splitStatements } from './sql'
import { showTables } from './tables'

declare global {
  interface Window {
    /** The page's handle for automation; see the top of main.ts. */
    kalam: { db: Database | undefined; ready: Promise<void>; openMs: number | undefined }
  }
}

/** Rows the page asks for when a query has no LIMIT of its own. */
const rowLimit = 100_000

type Row = Record<string, unknown>
interface Outcome {
  statement: Statement
  ms: number
  rows: Row[] | undefined
  columns: readonly ColumnInfo[]
  rowsAffected: number
  cut: boolean
}

const name = new URLSearchParams(location.search).get('db') || 'playground'
const textKey = `kalamdb-playground-sql:${name}`
const runButton = byId<HTMLButtonElement>('run')
const cancelButton = byId<HTMLButtonElement>('cancel')
const runState = byId('run-state')
const errorBox = byId('query-error')
const tabs = byId('result-tabs')
const head = byId('result-head')
const grid = byId('grid')

byId('database-name').textContent = name
document.title = `${name} · KalamDB playground`
if (/Mac|iP(hone|ad)/.test(navigator.userAgent)) byId('run-key').textContent = '⌘ ↵'

const editor = createEditor(
  () => void run(),
  () => {
    showError(errorBox, undefined)
    localStorage.setItem(textKey, editor.text)
  },
)
editor.text = localStorage.getItem(textKey) ?? examples.find(one => one.name === 'notes')?.sql ?? ''

let db: Database | undefined
let running: AbortController | undefined
let sampleTables: ((tables: readonly string[]) => void) | undefined

window.kalam = { db: undefined, ready: Promise.resolve(), openMs: undefined }
window.kalam.ready = open()
// The page shows the error itself; nobody needs to be listening to `ready`.
window.kalam.ready.catch(() => {})

async function open(): Promise<void> {
  const bar = byId<HTMLProgressElement>('status-bar')
  const state = byId('status-state')
  state.textContent = 'Opening…'
  bar.hidden = false
  const began = performance.now()
  try {
    db = await connect({
      name,
      onProgress: progress => {
        if (progress.totalBytes) bar.value = progress.bytes / progress.totalBytes
        if (progress.phase === 'download') state.textContent = `Loading the engine, ${formatBytes(progress.bytes)}`
        else state.textContent = progress.phase === 'compile' ? 'Compiling the engine…' : 'Opening…'
      },
    })
  } catch (error) {
    state.textContent = 'Not open'
    const again = el('button', { class: 'link', type: 'button' }, 'Try again')
    again.addEventListener('click', () => {
      showNote(grid, 'Opening…')
      window.kalam.ready = open()
      window.kalam.ready.catch(() => {})
    })
    const box = el('div')
    showError(box, error, undefined, again)
    showNote(grid, box)
    throw error
  } finally {
    bar.hidden = true
  }
  const openMs = performance.now() - began
  window.kalam.db = db
  window.kalam.openMs = openMs
  state.textContent = 'Ready'
  byId('status-open').textContent = `opened in ${formatMs(openMs)}`
  showNote(grid, 'Run a query, or pick an example.')
  runButton.disabled = false
  sampleTables = wireSample(db, refresh)
  await refresh()
}

async function refresh(): Promise<void> {
  if (!db) return
  const tables = await showTables(db, table => {
    editor.text = `SELECT * FROM ${table} LIMIT 100`
    void run()
  })
  sampleTables?.(tables)
  await showStatus()
}

async function showStatus(): Promise<void> {
  if (!db) return
  const status = await db.status()
  byId('status-storage').textContent = status.storage === 'indexeddb' ? 'IndexedDB' : status.storage
  byId('status-disk').textContent = status.usage === undefined ? '' : `${formatBytes(status.usage)} on disk`
  byId('status-version').textContent = `KalamDB ${status.version}`
}

async function run(): Promise<void> {
  if (!db || running) return
  const { sql, offset } = editor.target
  const statements = splitStatements(sql)
  showError(errorBox, undefined)
  if (statements.length === 0) {
    runState.textContent = 'Nothing to run.'
    return
  }
  running = new AbortController()
  runButton.disabled = true
  cancelButton.hidden = false
  runState.textContent = 'Running…'
  const outcomes: Outcome[] = []
  const began = performance.now()
  let failed: { statement: Statement; error: unknown } | undefined
  for (const statement of statements) {
    try {
      outcomes.push(await runOne(db, statement, running.signal))
    } catch (error) {
      failed = { statement, error }
      break
    }
  }
  const ms = performance.now() - began
  running = undefined
  runButton.disabled = false
  cancelButton.hidden = true
  const count = statements.length === 1 ? '' : `${outcomes.length} of ${statements.length} statements, `
  runState.textContent = failed ? `${count}stopped after ${formatMs(ms)}` : `${count}${formatMs(ms)}`
  showOutcomes(outcomes)
  if (failed) {
    const { statement, error } = failed
    const position = error instanceof KalamError ? error.position : undefined
    showError(errorBox, error, position && editor.mark(offset + statement.start, statement.sql, position))
    if (outcomes.length === 0) showNote(grid, 'No result: see the error above.')
  }
  if (statements.some(statement => statement.changes)) await refresh()
}

async function runOne(on: Database, statement: Statement, signal: AbortSignal): Promise<Outcome> {
  const began = performance.now()
  if (!statement.rows) {
    const { rowsAffected } = await on.exec(statement.sql, [], { signal })
    return { statement, ms: performance.now() - began, rows: undefined, columns: [], rowsAffected, cut: false }
  }
  // One row more than is shown tells whether there are more. The LIMIT stands on a line of its own, after any comment.
  const sql = statement.unlimited ? `${statement.sql}\nLIMIT ${rowLimit + 1}` : statement.sql
  const rows = await on.query<Row>(sql, [], { signal })
  const ms = performance.now() - began
  const cut = statement.unlimited && rows.length > rowLimit
  const shown: Row[] = cut ? rows.slice(0, rowLimit) : rows
  return { statement, ms, rows: shown, columns: rows.columns, rowsAffected: 0, cut }
}

function showOutcomes(outcomes: Outcome[]): void {
  const buttons = outcomes.map((outcome, at) => {
    const label = /^\w+(\s+\w+)?/.exec(outcome.statement.sql)?.[0]?.toUpperCase() ?? 'STATEMENT'
    const tab = el(
      'button',
      { class: 'tab', type: 'button', role: 'tab', 'aria-controls': 'grid' },
      `${at + 1} ${label}`,
    )
    tab.addEventListener('click', () => show(at))
    tab.addEventListener('keydown', event => {
      const step = event.key === 'ArrowRight' ? 1 : event.key === 'ArrowLeft' ? -1 : 0
      const next = buttons[at + step]
      if (step === 0 || !next) return
      show(at + step)
      next.focus()
    })
    return tab
  })
  const show = (at: number) => {
    for (const [index, tab] of buttons.entries()) {
      tab.setAttribute('aria-selected', String(index === at))
      tab.tabIndex = index === at ? 0 : -1
    }
    const outcome = outcomes[at]
    if (!outcome) return
    if (outcome.rows) {
      const more = outcome.cut
        ? `the first ${formatRows(outcome.rows.length)}; there are more`
        : formatRows(outcome.rows.length)
      head.textContent = `${more} · ${formatMs(outcome.ms)}`
      showGrid(grid, outcome.columns, outcome.rows)
    } else {
      const affected = `${formatCount(outcome.rowsAffected)} ${outcome.rowsAffected === 1 ? 'row' : 'rows'} affected`
      head.textContent = `${affected} · ${formatMs(outcome.ms)}`
      showNote(grid, 'Done. This statement gives no rows.')
    }
  }
  tabs.hidden = outcomes.length < 2
  tabs.replaceChildren(...buttons)
  head.textContent = ''
  // The last one with rows is what people want to see.
  const wanted = outcomes.findLastIndex(outcome => outcome.rows !== undefined)
  show(wanted >= 0 ? wanted : outcomes.length - 1)
}

runButton.addEventListener('click', () => void run())
cancelButton.addEventListener('click', () => running?.abort())
byId('refresh').addEventListener('click', () => void refresh())

byId('examples').replaceChildren(
  ...examples.map(example => {
    const button = el(
      'button',
      { class: 'example', type: 'button' },
      el('span', { class: 'example-title' }, example.title),
      el('span', { class: 'example-note' }, example.note),
    )
    button.addEventListener('click', () => {
      editor.text = example.sql
      editor.focus()
      void run()
    })
    return el('li', {}, button)
  }),
)
