// What scripts print: headings, tables, a line that moves.
// Invariant: without a terminal nothing is overwritten and no colour is sent, so a log reads as well as a screen.

const colour = process.stdout.isTTY && !process.env.NO_COLOR

/** A heading with room above it. */
export function heading(text) {
  console.log(colour ? `\n\u001b[1m${text}\u001b[0m` : `\n== ${text}`)
}

/** `3,000,000` */
export function formatCount(count) {
  return new Intl.NumberFormat('en').format(count)
}

/** `12.3 MB`, powers of 1000 */
export function formatBytes(bytes) {
  const units = ['B', 'kB', 'MB', 'GB']
  let unit = 0
  let value = bytes
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`
}

/** `0.4 ms`, `35 ms`, `2.31 s` */
export function formatMs(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`
  return ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(2)} s`
}

/** A table of text cells: names, a rule, rows; numbers flush right. */
export function formatTable(columns, rows) {
  const numeric = columns.map(({ type }) => /^(SMALLINT|INT|BIGINT|DOUBLE|FLOAT|DECIMAL)/i.test(type))
  const widths = columns.map(({ name }, at) => Math.max(name.length, ...rows.map(row => row[at].length)))
  const pad = (cell, at) => (numeric[at] ? cell.padStart(widths[at]) : cell.padEnd(widths[at]))
  const line = cells => `  ${cells.map(pad).join('   ')}`.trimEnd()
  const rule = `  ${widths.map(width => '─'.repeat(width)).join('   ')}`
  return [line(columns.map(({ name }) => name)), rule, ...rows.map(line)].join('\n')
}

/** A line that is rewritten in place on a terminal; in a log it is written every two seconds. */
export function liveLine() {
  let shown = 0
  return {
    show(text) {
      if (process.stdout.isTTY) {
        process.stdout.write(`\r\u001b[K  ${text}`)
      } else if (Date.now() - shown > 2000) {
        shown = Date.now()
        console.log(`  ${text}`)
      }
    },
    end(text) {
      console.log(process.stdout.isTTY ? `\r\u001b[K${text}` : text)
    },
  }
}
