// What DuckDB and pyarrow say, by tests/python/oracle.py.

import { spawnSync } from 'node:child_process'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const cache = process.env.KALAMDB_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'kalamdb')
const python = join(process.env.KALAMDB_PYTHON ?? join(cache, 'python'), 'bin/python')
const script = fileURLToPath(new URL('../../python/oracle.py', import.meta.url))

/** Sends a request to the oracle; see the script for what it takes and gives. */
export function oracle(request) {
  const run = spawnSync(python, [script], { input: JSON.stringify(request), maxBuffer: 1 << 28, encoding: 'utf8' })
  if (run.error) throw new Error(`${python} does not start: run \`make setup\``, { cause: run.error })
  if (run.status !== 0) throw new Error(`the oracle failed:\n${run.stderr}`)
  return JSON.parse(run.stdout)
}

/** A value as the oracle writes it; dates without their column's type are timestamps. */
export function asText(value, type = '') {
  if (value === null || typeof value === 'string') return value
  if (value instanceof Date) {
    const iso = value.toISOString()
    if (type === 'DATE') return iso.slice(0, 10)
    // Six digits, no zone, as Python prints it.
    return iso.replace(/\.(\d{3})(\d{3})?Z$/, (_, ms, us) => `.${ms}${us ?? '000'}`)
  }
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex')
  if (value instanceof Float32Array) return `[${Array.from(value, one => asText(one, 'DOUBLE')).join(',')}]`
  if (typeof value === 'number' && /^(DOUBLE|FLOAT)/.test(type)) {
    if (Number.isNaN(value)) return 'nan'
    if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf'
    // Python marks a float by its point; both print the shortest digits that read back.
    const text = Object.is(value, -0) ? '-0' : String(value)
    return /[.e]/.test(text) ? text.replace(/e([+-])(\d)$/, 'e$10$2') : `${text}.0`
  }
  return String(value)
}
