// Row objects to a KPR1 buffer.
//
// Invariant: a value either goes in as it is or the call fails, naming column, row and what was found. Nothing is
// rounded, wrapped or cut on the way; the engine checks constraints, not shapes that JavaScript could have bent.

import { KalamError } from '../errors.js'
import { bytesIn, is } from '../realm.js'
import { microsecondsOf } from '../timestamp.js'
import type { ColumnInfo } from '../types.js'
import { align8, COLUMN_BYTES, FLAG_NULLS, HEADER_BYTES, Kind, LITTLE_ENDIAN, MAGIC } from './format.js'

/** Beyond this size no engine has a buffer for it; the caller gets a hint instead of a RangeError. */
const MAX_BYTES = 2 ** 31 - 8

/** A packed insert: the columns it names and one buffer with their values. */
export interface Packed {
  columns: string[]
  buffer: Uint8Array<ArrayBuffer>
}

/** The sections of one column before they are laid out. */
interface Encoded {
  kind: Kind
  data: Uint8Array
  validity: Uint8Array | undefined
  offsets: Uint32Array | undefined
  width: number
}

type Source = Record<string, unknown>

/**
 * Packs objects for `insertPacked`. The columns are the keys that hold something other than `undefined` in any row;
 * where a row lacks one of them it gets NULL.
 *
 * @param table SQL name of the table, for messages
 * @param known columns of the table
 */
export function encodeRows(table: string, known: readonly ColumnInfo[], rows: readonly object[]): Packed {
  if (!LITTLE_ENDIAN) throw new KalamError({ code: 'FEATURE_NOT_SUPPORTED', message: 'big-endian platforms' })
  const columns = usedColumns(table, known, rows as readonly Source[])
  const encoded = columns.map(column => encodeColumn(column, rows as readonly Source[]))
  return { columns: columns.map(c => c.name), buffer: layOut(encoded, rows.length) }
}

function usedColumns(table: string, known: readonly ColumnInfo[], rows: readonly Source[]): ColumnInfo[] {
  const byName = new Map(known.map(column => [column.name, column]))
  const used = new Set<string>()
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i]
    if (typeof row !== 'object' || row === null || Array.isArray(row)) {
      throw new KalamError({
        code: 'DATATYPE_MISMATCH',
        message: `insert into ${table}: row ${i + 1} is ${show(row)}, expected an object`,
      })
    }
    // `for … in` makes no list of the keys; it walks inherited ones too, which count as little as in Object.keys.
    for (const key in row) {
      if (used.has(key) || !Object.hasOwn(row, key) || row[key] === undefined) continue
      if (!byName.has(key)) throw unknownColumn(table, key, i, known)
      used.add(key)
    }
  }
  return known.filter(column => used.has(column.name))
}

function unknownColumn(table: string, key: string, row: number, known: readonly ColumnInfo[]): KalamError {
  const near = known.find(column => column.name.toLowerCase() === key.toLowerCase())
  return new KalamError({
    code: 'COLUMN_NOT_FOUND',
    message: `insert into ${table}: row ${row + 1} has key '${key}', but the table has no such column`,
    hint: near
      ? `Did you mean '${near.name}'? Unquoted names fold to lower case.`
      : `Columns: ${known.map(column => column.name).join(', ')}.`,
  })
}

function encodeColumn(column: ColumnInfo, rows: readonly Source[]): Encoded {
  const { name } = column
  // Filled: `map` would pass over holes.
  const values = new Array<unknown>(rows.length).fill(undefined)
  let validity: Uint8Array | undefined
  for (let i = 0; i < rows.length; i++) {
    const value = (rows[i] as Source)[name]
    if (value === null || value === undefined) {
      validity ??= new Uint8Array(rows.length).fill(1)
      validity[i] = 0
    } else {
      values[i] = value
    }
  }
  const encoder = ENCODERS[baseType(column.type)] ?? encodeAsText
  return { validity, offsets: undefined, width: 0, ...encoder(values, new Cell(column), column) }
}

/** `DECIMAL(10,2)` → `DECIMAL`. */
function baseType(type: string): string {
  const open = type.indexOf('(')
  return (open < 0 ? type : type.slice(0, open)).trim().toUpperCase()
}

/** Where a value stands, for messages. */
class Cell {
  constructor(private readonly column: ColumnInfo) {}

  fail(code: string, row: number, value: unknown, expected: string, hint?: string): KalamError {
    return new KalamError({
      code,
      message: `column '${this.column.name}', row ${row + 1}: ${show(value)} for ${this.column.type}, expected ${expected}`,
      hint,
    })
  }

  mismatch(row: number, value: unknown, expected: string, hint?: string): KalamError {
    return this.fail('DATATYPE_MISMATCH', row, value, expected, hint)
  }
}

/** A value in a message: its type, and what it is when that is short. */
export function show(value: unknown): string {
  if (value === null) return 'null'
  if (typeof value === 'string') {
    return `string ${JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value)}`
  }
  if (typeof value === 'object') return value.constructor?.name ?? 'object'
  if (typeof value === 'bigint') return `bigint ${value}n`
  if (typeof value === 'symbol' || typeof value === 'function' || value === undefined) return typeof value
  return `${typeof value} ${String(value)}`
}

/** Whether JSON makes `{}` of an object, whatever it holds: of a Map, or of a promise that nobody awaited. */
export function isOpaque(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  const plain = Object.prototype.toString.call(value) === '[object Object]'
  return !plain && !('toJSON' in value) && Object.keys(value).length === 0 && asBytes(value) === undefined
}

type Encoder = (
  values: unknown[],
  cell: Cell,
  column: ColumnInfo,
) => Partial<Encoded> & { kind: Kind; data: Uint8Array }

const bytesOf = (view: ArrayBufferView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength)

function encodeBooleans(values: unknown[], cell: Cell): { kind: Kind; data: Uint8Array } {
  const data = new Uint8Array(values.length)
  for (let i = 0; i < values.length; i++) {
    const value = values[i]
    if (value === undefined) continue
    if (typeof value !== 'boolean') throw cell.mismatch(i, value, 'a boolean')
    data[i] = value ? 1 : 0
  }
  return { kind: Kind.BOOL, data }
}

function encodeInts(min: number, max: number): Encoder {
  return (values, cell) => {
    const data = new Int32Array(values.length)
    for (let i = 0; i < values.length; i++) {
      const value = values[i]
      if (value === undefined) continue
      if (typeof value !== 'number' && typeof value !== 'bigint') throw cell.mismatch(i, value, 'an integer')
      if (typeof value === 'number' && !Number.isInteger(value)) throw cell.mismatch(i, value, 'an integer')
      if (value < min || value > max) {
        throw cell.fail('NUMERIC_VALUE_OUT_OF_RANGE', i, value, `a value from ${min} to ${max}`)
      }
      data[i] = Number(value)
    }
    return { kind: Kind.INT32, data: bytesOf(data) }
  }
}

const INT64_MIN = -(2n ** 63n)
const INT64_MAX = 2n ** 63n - 1n

function encodeBigints(values: unknown[], cell: Cell): { kind: Kind; data: Uint8Array } {
  const data = new BigInt64Array(values.length)
  for (let i = 0; i < values.length; i++) {
    const value = values[i]
    if (value === undefined) continue
    let exact: bigint
    if (typeof value === 'bigint') exact = value
    else if (typeof value === 'number' && Number.isSafeInteger(value)) exact = BigInt(value)
    else if (typeof value === 'string' && /^[+-]?\d{1,20}$/.test(value)) exact = BigInt(value.replace('+', ''))
    else if (typeof value === 'number' && Number.isInteger(value)) {
      throw cell.mismatch(i, value, 'a bigint', 'A number this large may have been rounded already; pass a bigint.')
    } else throw cell.mismatch(i, value, 'a bigint, a safe integer, or decimal digits')
    if (exact < INT64_MIN || exact > INT64_MAX) {
      throw cell.fail('NUMERIC_VALUE_OUT_OF_RANGE', i, value, 'a 64-bit integer')
    }
    data[i] = exact
  }
  return { kind: Kind.INT64, data: bytesOf(data) }
}

function encodeDoubles(values: unknown[], cell: Cell): { kind: Kind; data: Uint8Array } {
  const data = new Float64Array(values.length)
  for (let i = 0; i < values.length; i++) {
    const value = values[i]
    if (value === undefined) continue
    if (typeof value === 'number') data[i] = value
    else if (typeof value === 'bigint' && BigInt(Number(value)) === value) data[i] = Number(value)
    else throw cell.mismatch(i, value, 'a number')
  }
  return { kind: Kind.FLOAT64, data: bytesOf(data) }
}

function encodeDecimals(values: unknown[], cell: Cell): Partial<Encoded> & { kind: Kind; data: Uint8Array } {
  const texts = values.map((value, i) => {
    if (value === undefined) return ''
    if (typeof value === 'string') return value
    if (typeof value === 'bigint' || (typeof value === 'number' && Number.isFinite(value))) return String(value)
    throw cell.mismatch(i, value, 'decimal text, a number or a bigint')
  })
  return encodeTexts(Kind.UTF8, texts)
}

function encodeAsText(values: unknown[], cell: Cell): Partial<Encoded> & { kind: Kind; data: Uint8Array } {
  for (let i = 0; i < values.length; i++) {
    const value = values[i]
    if (value === undefined) values[i] = ''
    else if (typeof value !== 'string') throw cell.mismatch(i, value, 'a string')
  }
  return encodeTexts(Kind.UTF8, values as string[])
}

/** Dates as integers; as soon as one value is text (another zone, say) the engine parses the column. */
function encodeDates(kind: typeof Kind.DATE | typeof Kind.TIMESTAMP): Encoder {
  return (values, cell) => {
    let text = false
    for (let i = 0; i < values.length; i++) {
      const value = values[i]
      if (value === undefined) continue
      if (value instanceof Date || is(value, 'Date')) {
        if (microsecondsOf(value) === undefined) throw cell.fail('INVALID_DATETIME', i, 'Invalid Date', 'a valid Date')
      } else if (typeof value === 'string') text = true
      else throw cell.mismatch(i, value, 'a Date or ISO 8601 text', 'Milliseconds since the epoch: new Date(n).')
    }
    if (text) {
      const texts = values.map(value => {
        if (!is(value, 'Date')) return (value ?? '') as string
        return kind === Kind.DATE ? (value.toISOString().split('T')[0] as string) : value.toISOString()
      })
      return encodeTexts(Kind.UTF8, texts)
    }
    if (kind === Kind.DATE) {
      const data = new Int32Array(values.length)
      for (let i = 0; i < values.length; i++) {
        const value = values[i] as Date | undefined
        if (value !== undefined) data[i] = Math.floor(value.getTime() / 86_400_000)
      }
      return { kind, data: bytesOf(data) }
    }
    const data = new BigInt64Array(values.length)
    for (let i = 0; i < values.length; i++) {
      const value = values[i] as Date | undefined
      if (value !== undefined) data[i] = microsecondsOf(value) ?? 0n
    }
    return { kind, data: bytesOf(data) }
  }
}

function encodeJson(values: unknown[], cell: Cell): Partial<Encoded> & { kind: Kind; data: Uint8Array } {
  const texts = values.map((value, i) => {
    if (value === undefined) return ''
    let text: string | undefined
    try {
      text = JSON.stringify(value)
    } catch (cause) {
      throw cell.mismatch(i, value, `a JSON value (${(cause as Error).message})`)
    }
    if (text === undefined || isOpaque(value)) throw cell.mismatch(i, value, 'a JSON value')
    return text
  })
  return encodeTexts(Kind.JSON, texts)
}

function encodeBytes(values: unknown[], cell: Cell): Partial<Encoded> & { kind: Kind; data: Uint8Array } {
  const offsets = new Uint32Array(values.length + 1)
  const parts = new Array<Uint8Array | undefined>(values.length)
  let total = 0
  for (let i = 0; i < values.length; i++) {
    const value = values[i]
    if (value !== undefined) {
      const part = asBytes(value)
      if (part === undefined) throw cell.mismatch(i, value, 'a Uint8Array')
      parts[i] = part
      total = checkSize(total + part.length)
    }
    offsets[i + 1] = total
  }
  const data = new Uint8Array(total)
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i]
    if (part !== undefined) data.set(part, offsets[i] as number)
  }
  return { kind: Kind.BYTES, data, offsets }
}

function asBytes(value: unknown): Uint8Array | undefined {
  return ArrayBuffer.isView(value) && !(value instanceof Uint8Array) ? bytesOf(value) : bytesIn(value)
}

function encodeEmbeddings(
  values: unknown[],
  cell: Cell,
  column: ColumnInfo,
): Partial<Encoded> & { kind: Kind; data: Uint8Array } {
  const width = Number(/\((\d+)\)/.exec(column.type)?.[1])
  const data = new Float32Array(checkSize(values.length * width * 4) / 4)
  for (let i = 0; i < values.length; i++) {
    const value = values[i]
    if (value === undefined) continue
    const list = value as ArrayLike<unknown>
    if (!Array.isArray(value) && !is(value, 'Float32Array') && !is(value, 'Float64Array')) {
      throw cell.mismatch(i, value, 'a Float32Array or an array of numbers')
    }
    if (list.length !== width) {
      throw cell.fail('WRONG_DIMENSION', i, value, `${width} numbers, found ${list.length}`)
    }
    for (let j = 0; j < width; j++) {
      const element = list[j]
      if (typeof element !== 'number') throw cell.mismatch(i, element, `a number at position ${j + 1}`)
      data[i * width + j] = element
    }
  }
  return { kind: Kind.EMBEDDING, data: bytesOf(data), width }
}

const UUID = /^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$/i

function encodeUuids(values: unknown[], cell: Cell): { kind: Kind; data: Uint8Array } {
  const data = new Uint8Array(values.length * 16)
  for (let i = 0; i < values.length; i++) {
    const value = values[i]
    if (value === undefined) continue
    if (is(value, 'Uint8Array') && value.length === 16) {
      data.set(value, i * 16)
    } else if (typeof value !== 'string') {
      throw cell.mismatch(i, value, 'UUID text or 16 bytes')
    } else if (!UUID.test(value)) {
      throw cell.fail('INVALID_TEXT_REPRESENTATION', i, value, 'a UUID (8-4-4-4-12 hexadecimal digits)')
    } else {
      const digits = value.replaceAll('-', '')
      for (let j = 0; j < 16; j++) data[i * 16 + j] = Number.parseInt(digits.slice(2 * j, 2 * j + 2), 16)
    }
  }
  return { kind: Kind.UUID, data }
}

const ENCODERS: Record<string, Encoder> = {
  BOOLEAN: encodeBooleans,
  SMALLINT: encodeInts(-32_768, 32_767),
  INT: encodeInts(-2_147_483_648, 2_147_483_647),
  BIGINT: encodeBigints,
  DOUBLE: encodeDoubles,
  FLOAT: encodeDoubles,
  DECIMAL: encodeDecimals,
  TIMESTAMP: encodeDates(Kind.TIMESTAMP),
  DATETIME: encodeDates(Kind.TIMESTAMP),
  DATE: encodeDates(Kind.DATE),
  JSON: encodeJson,
  BYTES: encodeBytes,
  EMBEDDING: encodeEmbeddings,
  UUID: encodeUuids,
  // TEXT, FILE and TIME are text, and so is any later type: the engine parses it.
}

const encoder = new TextEncoder()

/** All texts of a column in one call of the encoder: per-string calls cost more than the bytes. */
function encodeTexts(kind: Kind, texts: string[]): Partial<Encoded> & { kind: Kind; data: Uint8Array } {
  const offsets = new Uint32Array(texts.length + 1)
  let units = 0
  for (let i = 0; i < texts.length; i++) {
    units += (texts[i] as string).length
    offsets[i + 1] = checkSize(units)
  }
  if (units < 1 << 26) {
    // `encodeInto` takes half the time of `encode`, and a fifth at first, but has to know the size: try ASCII.
    const joined = texts.join('')
    let data = new Uint8Array(units)
    if (encodesTo(joined, data)) return { kind, data, offsets }
    data = new Uint8Array(checkSize(byteOffsets(texts, offsets)))
    if (encodesTo(joined, data)) return { kind, data, offsets }
    // Halves of a surrogate pair met at a seam. Each half becomes a replacement character, as it would alone.
  }
  const parts = texts.map(text => encoder.encode(text))
  let total = 0
  for (let i = 0; i < parts.length; i++) {
    total = checkSize(total + (parts[i] as Uint8Array).length)
    offsets[i + 1] = total
  }
  const data = new Uint8Array(total)
  for (let i = 0; i < parts.length; i++) data.set(parts[i] as Uint8Array, offsets[i] as number)
  return { kind, data, offsets }
}

/** Encodes a text; tells whether it takes exactly these bytes. */
function encodesTo(text: string, data: Uint8Array<ArrayBuffer>): boolean {
  const { read, written } = encoder.encodeInto(text, data)
  return read === text.length && written === data.length
}

/** Fills in where each text starts in UTF-8 and returns the sum; half a surrogate pair counts as U+FFFD. */
function byteOffsets(texts: string[], offsets: Uint32Array): number {
  let total = 0
  for (let i = 0; i < texts.length; i++) {
    const text = texts[i] as string
    for (let j = 0; j < text.length; j++) {
      const unit = text.charCodeAt(j)
      if (unit < 0x80) total += 1
      else if (unit < 0x800) total += 2
      else if (unit >= 0xd800 && unit < 0xdc00 && (text.charCodeAt(j + 1) & 0xfc00) === 0xdc00) {
        total += 4
        j++
      } else total += 3
    }
    offsets[i + 1] = total
  }
  return total
}

function checkSize(bytes: number): number {
  if (bytes <= MAX_BYTES) return bytes
  throw new KalamError({
    code: 'OUT_OF_MEMORY',
    message: `the rows of this insert need more than ${MAX_BYTES} bytes`,
    hint: 'Insert them in several calls, or import them from a file.',
  })
}

function layOut(columns: Encoded[], rows: number): Uint8Array<ArrayBuffer> {
  let size = HEADER_BYTES + columns.length * COLUMN_BYTES
  const place = (bytes: number): number => {
    const at = align8(size)
    size = checkSize(at + bytes)
    return at
  }
  const places = columns.map(column => ({
    validity: column.validity ? place(rows) : 0,
    data: place(column.data.length),
    offsets: column.offsets ? place((rows + 1) * 4) : 0,
  }))
  const buffer = new Uint8Array(align8(size))
  const words = new Uint32Array(buffer.buffer)
  words.set([MAGIC, columns.length, rows, 0])
  columns.forEach((column, c) => {
    const at = places[c] as { validity: number; data: number; offsets: number }
    const flags = column.validity ? FLAG_NULLS : 0
    words.set(
      [column.kind, flags, at.validity, at.data, column.data.length, at.offsets, column.width, 0],
      (HEADER_BYTES + c * COLUMN_BYTES) >> 2,
    )
    if (column.validity) buffer.set(column.validity, at.validity)
    buffer.set(column.data, at.data)
    if (column.offsets) buffer.set(bytesOf(column.offsets), at.offsets)
  })
  return buffer
}
