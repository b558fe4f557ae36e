// How values, sizes and times are written for people.

const counts = new Intl.NumberFormat('en')

/** `3,000,000` */
export function formatCount(count: number | bigint): string {
  return counts.format(count)
}

/** `3,000,000 rows` */
export function formatRows(count: number): string {
  return `${formatCount(count)} ${count === 1 ? 'row' : 'rows'}`
}

/** `12.3 MB`, in powers of 1000 as disks are sold and browsers report. */
export function formatBytes(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`
  const units = ['kB', 'MB', 'GB', 'TB']
  let value = bytes
  let unit = -1
  do {
    value /= 1000
    unit++
  } while (value >= 999.5 && unit < units.length - 1)
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ${units[unit]}`
}

/** `0.4 ms`, `35 ms`, `2.31 s` */
export function formatMs(ms: number): string {
  if (ms < 10) return `${ms.toFixed(1)} ms`
  if (ms < 1000) return `${ms.toFixed(0)} ms`
  return `${(ms / 1000).toFixed(2)} s`
}

/** Whether values of a type are set flush right. */
export function isNumeric(type: string): boolean {
  return /^(SMALLINT|INT|BIGINT|DOUBLE|FLOAT|DECIMAL)\b/i.test(type)
}

/** One cell as text; NULL is the caller's business. */
export function formatValue(value: unknown, type: string): string {
  if (value instanceof Date) {
    const iso = value.toISOString()
    if (/^DATE\b/i.test(type)) return iso.slice(0, 10)
    const text = iso.replace('T', ' ').replace(/\.000Z$/, 'Z')
    return /^DATETIME\b/i.test(type) ? text : text.replace(/Z$/, '')
  }
  if (value instanceof Uint8Array) {
    return `\\x${Array.from(value, byte => byte.toString(16).padStart(2, '0')).join('')}`
  }
  if (value instanceof Float32Array) return `[${Array.from(value, short).join(', ')}]`
  if (typeof value === 'object')
    return JSON.stringify(value, (_, part) => (typeof part === 'bigint' ? `${part}` : part))
  return String(value)
}

// A 32-bit number in the fewest digits that tell it apart: 0.1, not 0.10000000149011612.
function short(value: number): string {
  for (let digits = 1; digits < 9; digits++) {
    const text = Number(value.toPrecision(digits))
    if (Math.fround(text) === value) return String(text)
  }
  return String(value)
}
