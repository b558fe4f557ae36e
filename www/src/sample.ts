// The button that loads the sample data.
//
// Invariant: a table of the visitor's own is never replaced without a second click that says so, and whatever ends
// the load early (an error, Cancel, a closed page) leaves no half-filled table: an import is all or nothing, and the
// tables of an unfinished load are dropped again.

import type { Database, ImportProgress } from 'kalamdb'
import definitions from '../samples.json'
import { byId } from './dom'
import { showError } from './errors'
import { formatBytes, formatCount, formatMs, formatRows } from './format'

interface Sample {
  table: string
  file: string
  format: 'parquet' | 'csv'
  create: string
}

/** The sample tables: their definition, the file they come from and its format. */
export const samples = definitions as readonly Sample[]

const idle = 'Load flights and airports'

/** Wires the button. `onDone` is called after the tables have changed; the returned function tells it what tables there are. */
export function wireSample(db: Database, onDone: () => Promise<void>): (tables: readonly string[]) => void {
  const button = byId<HTMLButtonElement>('sample-load')
  const panel = byId('sample-progress')
  const bar = byId<HTMLProgressElement>('sample-bar')
  const text = byId('sample-text')
  const note = byId('sample-note')
  const errorBox = byId('sample-error')
  let existing: string[] = []
  let sure = false
  let running: AbortController | undefined

  const reset = () => {
    sure = false
    button.textContent = existing.length > 0 ? 'Load again' : idle
  }
  const say = (line: string) => {
    note.textContent = line
    note.hidden = line === ''
  }

  byId('sample-cancel').addEventListener('click', () => running?.abort())
  button.addEventListener('blur', reset)
  button.addEventListener('click', async () => {
    if (existing.length > 0 && !sure) {
      sure = true
      button.textContent = `Replace ${existing.join(' and ')}?`
      return
    }
    running = new AbortController()
    button.hidden = true
    panel.hidden = false
    showError(errorBox, undefined)
    say('')
    bar.removeAttribute('value')
    text.textContent = 'Starting…'
    const began = performance.now()
    try {
      const rows = await load(db, running.signal, (sample, at, progress) => {
        text.textContent = describe(sample, progress)
        const done = fraction(progress)
        if (done === undefined) bar.removeAttribute('value')
        else bar.value = (at + done) / samples.length
      })
      say(`${formatRows(rows)} in ${formatMs(performance.now() - began)}.`)
    } catch (error) {
      if (running.signal.aborted) say('Cancelled; nothing was kept.')
      else showError(errorBox, error)
    } finally {
      running = undefined
      panel.hidden = true
      button.hidden = false
      await onDone()
      button.focus()
    }
  })
  button.disabled = false

  return tables => {
    existing = samples.map(sample => sample.table).filter(table => tables.includes(table))
    reset()
  }
}

async function load(
  db: Database,
  signal: AbortSignal,
  onProgress: (sample: Sample, at: number, progress: ImportProgress) => void,
): Promise<number> {
  let rows = 0
  for (const { table } of samples) await db.exec(`DROP TABLE IF EXISTS ${table}`)
  try {
    for (const [at, sample] of samples.entries()) {
      await db.exec(sample.create)
      const source = new URL(`data/${sample.file}`, document.baseURI)
      const result = await db.import(sample.table, source, {
        format: sample.format,
        signal,
        onProgress: progress => onProgress(sample, at, progress),
      })
      rows += result.rowsAffected
    }
  } catch (error) {
    for (const { table } of samples) await db.exec(`DROP TABLE IF EXISTS ${table}`).catch(() => {})
    throw error
  }
  return rows
}

function describe(sample: Sample, progress: ImportProgress): string {
  if (progress.rows > 0) {
    const total = progress.totalRows === undefined ? '' : ` of ${formatCount(progress.totalRows)}`
    return `${sample.table}: ${formatCount(progress.rows)}${total} rows`
  }
  const total = progress.totalBytes === undefined ? '' : ` of ${formatBytes(progress.totalBytes)}`
  return `${sample.table}: ${formatBytes(progress.bytes)}${total} read`
}

// Parquet is read first (a tenth of the work) and decoded then; CSV is decoded while it is read. Undefined when the
// totals are not known.
function fraction({ phase, bytes, totalBytes, rows, totalRows }: ImportProgress): number | undefined {
  if (phase === 'done') return 1
  if (phase === 'write') return totalRows ? 0.1 + (0.9 * rows) / totalRows : undefined
  if (!totalBytes) return undefined
  return (rows > 0 ? 1 : 0.1) * (bytes / totalBytes)
}
