// Sizes and their ceilings. Invariant: every ceiling in the budget file is compared with a size that was measured; a
// ceiling for something that is not there is a violation, so a renamed file cannot slip through.
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { brotliCompressSync, constants, gzipSync } from 'node:zlib'

/**
 * Raw, gzip and brotli size of bytes. Compressing 26 MB takes a minute at quality 11, so results are kept in
 * `cacheDir` under the hash of the content.
 */
export function measure(bytes, quality, cacheDir) {
  const name = `${createHash('sha256').update(bytes).digest('hex')}-q${quality}.json`
  const cached = cacheDir && join(cacheDir, name)
  if (cached) {
    try {
      return JSON.parse(readFileSync(cached, 'utf8'))
    } catch {
      // Not measured before.
    }
  }
  const params = {
    [constants.BROTLI_PARAM_QUALITY]: quality,
    [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS,
    [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
  }
  const sizes = {
    raw: bytes.length,
    gzip: gzipSync(bytes, { level: 9 }).length,
    brotli: brotliCompressSync(bytes, { params }).length,
  }
  if (cached) {
    mkdirSync(cacheDir, { recursive: true })
    writeFileSync(cached, JSON.stringify(sizes))
  }
  return sizes
}

/** What is over budget, as texts. `budget` and `sizes` map a part's name to `{ raw?, gzip?, brotli? }`. */
export function violations(budget, sizes) {
  const found = []
  for (const [part, ceilings] of Object.entries(budget)) {
    for (const [form, ceiling] of Object.entries(ceilings)) {
      const size = sizes[part]?.[form]
      if (size === undefined)
        found.push(`${part}: the budget has a ceiling for its ${form} size, but it was not measured`)
      else if (size > ceiling) found.push(`${part}: ${form} ${bytes(size)} is over the ceiling of ${bytes(ceiling)}`)
    }
  }
  return found
}

/** A number of bytes for people: MB are 10^6, kB 10^3. */
export function bytes(count) {
  if (count >= 1e6) return `${(count / 1e6).toFixed(2)} MB`
  if (count >= 1e3) return `${(count / 1e3).toFixed(1)} kB`
  return `${count} B`
}

/** Rows of equal-length texts as lines; the first column is flush left, the others flush right. */
export function table(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map(row => row[column].length)))
  return rows.map(row =>
    row
      .map((text, column) => (column ? text.padStart(widths[column]) : text.padEnd(widths[column])))
      .join('  ')
      .trimEnd(),
  )
}
