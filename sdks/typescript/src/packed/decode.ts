// KPR1 buffers to row objects.
//
// Invariant: values are exact or the call fails. BIGINT is never rounded, text is decoded as the engine wrote it, and
// a buffer that does not describe itself consistently is an error, not a short result.
// Rows are clones of one template per result shape, filled column by column: all rows of a result share one hidden
// class, keys are stored with one name per loop, and no code is generated at run time (CSP forbids it).

import { KalamError } from '../errors.js'
import { Timestamp } from '../timestamp.js'
import type { ColumnInfo, Int64Mode, Row } from '../types.js'
import { COLUMN_BYTES, FLAG_NULLS, HEADER_BYTES, Kind, LITTLE_ENDIAN, MAGIC } from './format.js'

/** Text sections above this size are decoded row by row: one string may not get arbitrarily long. */
const WHOLE_TEXT_BYTES = 1 << 26

// `ignoreBOM` keeps a U+FEFF that is part of the data.
const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })

/** Text sections of at most so many bytes are read letter by letter: to ask the decoder takes longer. */
const SHORT_TEXT_BYTES = 48

interface Section {
  kind: number
  rows: number
  bytes: Uint8Array
  /** The same bytes. */
  words: Uint32Array
  /** One byte per row, or undefined when no value is NULL. */
  validity: Uint8Array | undefined
  dataStart: number
  dataBytes: number
  offsetsStart: number
  width: number
}

type Values = ArrayLike<unknown>

/**
 * Decodes the buffers of a result.
 *
 * @param buffers KPR1 buffers, all of one shape
 * @param columns the columns of the result; of two with one name the last one stays
 * @param int64 how BIGINT values are given
 */
export function decodeRows(buffers: readonly Uint8Array[], columns: readonly ColumnInfo[], int64: Int64Mode): Row[] {
  const parsed = buffers.map(buffer => parse(buffer, columns.length))
  let total = 0
  for (const part of parsed) total += part.rows
  const rows = new Array<Row>(total)
  const template = templateOf(columns)
  for (let i = 0; i < total; i++) rows[i] = { ...template }

  let first = 0
  for (const part of parsed) {
    for (let c = 0; c < columns.length; c++) {
      const section = part.sections[c] as Section
      const column = columns[c] as ColumnInfo
      const values = decodeColumn(section, column, int64, first)
      fill(rows, first, column.name, values, section.validity, section.rows)
    }
    first += part.rows
  }
  return rows
}

/** By the columns of results, which the same statement gives again and again. */
const templates = new WeakMap<readonly ColumnInfo[], Row>()

function templateOf(columns: readonly ColumnInfo[]): Row {
  let template = templates.get(columns)
  if (template === undefined) {
    template = rowTemplate(columns)
    templates.set(columns, template)
  }
  return template
}

/**
 * An object with every column as an own property. JSON.parse sizes the object for exactly these properties, and makes
 * even `__proto__` an ordinary one.
 */
function rowTemplate(columns: readonly ColumnInfo[]): Row {
  return JSON.parse(`{${columns.map(c => `${JSON.stringify(c.name)}:null`).join(',')}}`)
}

function fill(
  rows: Row[],
  first: number,
  name: string,
  values: Values,
  validity: Uint8Array | undefined,
  count: number,
): void {
  if (validity === undefined) {
    for (let i = 0; i < count; i++) (rows[first + i] as Row)[name] = values[i] as never
  } else {
    // Null is assigned too: of two columns with one name the last one decides, NULL included.
    for (let i = 0; i < count; i++) (rows[first + i] as Row)[name] = (validity[i] === 1 ? values[i] : null) as never
  }
}

function damaged(what: string): KalamError {
  return new KalamError({ code: 'INTERNAL_ERROR', message: `the engine's result does not decode: ${what}` })
}

function parse(buffer: Uint8Array, expectedColumns: number): { rows: number; sections: Section[] } {
  if (!LITTLE_ENDIAN) throw new KalamError({ code: 'FEATURE_NOT_SUPPORTED', message: 'big-endian platforms' })
  // Typed arrays over the buffer need its alignment; a view at an odd offset is copied once.
  const bytes = buffer.byteOffset % 8 === 0 ? buffer : buffer.slice()
  if (bytes.length < HEADER_BYTES) throw damaged(`${bytes.length} bytes are less than a header`)
  const head = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2)
  const word = (at: number): number => head[at] as number
  const [magic, count, rows] = [word(0), word(1), word(2)]
  if (magic !== MAGIC) throw damaged(`magic 0x${magic.toString(16)} instead of KPR1`)
  if (count !== expectedColumns) throw damaged(`${count} packed columns for ${expectedColumns} columns`)
  if (HEADER_BYTES + count * COLUMN_BYTES > bytes.length) throw damaged('the column table is cut short')

  const sections: Section[] = []
  for (let c = 0; c < count; c++) {
    const at = (HEADER_BYTES + c * COLUMN_BYTES) >> 2
    const kind = word(at)
    const flags = word(at + 1)
    const validityStart = word(at + 2)
    const dataStart = word(at + 3)
    const dataBytes = word(at + 4)
    const offsetsStart = word(at + 5)
    const width = word(at + 6)
    checkInside(bytes, c, dataStart, dataBytes)
    const perRow = FIXED_BYTES[kind]
    if (perRow === undefined) throw damaged(`column ${c} is of unknown kind ${kind}`)
    if (perRow === 0) {
      checkInside(bytes, c, offsetsStart, (rows + 1) * 4)
      // Offsets that ran outside would cut text silently.
      const last = word((offsetsStart >> 2) + rows)
      if (last > dataBytes) throw damaged(`column ${c}: offset ${last} of ${dataBytes} bytes`)
    } else if (dataBytes < rows * perRow * (kind === Kind.EMBEDDING ? width : 1)) {
      throw damaged(`column ${c}: ${dataBytes} bytes for ${rows} rows`)
    }
    let validity: Uint8Array | undefined
    if ((flags & FLAG_NULLS) !== 0) {
      checkInside(bytes, c, validityStart, rows)
      validity = bytes.subarray(validityStart, validityStart + rows)
    }
    sections.push({ kind, rows, bytes, words: head, validity, dataStart, dataBytes, offsetsStart, width })
  }
  return { rows, sections }
}

function checkInside(bytes: Uint8Array, column: number, start: number, length: number): void {
  if (start % 8 === 0 && start + length <= bytes.length) return
  throw damaged(`column ${column}: section ${start}+${length} of ${bytes.length} bytes`)
}

/** Bytes per row (per element for embeddings); 0 for kinds with offsets. */
const FIXED_BYTES: Record<number, number> = {
  [Kind.BOOL]: 1,
  [Kind.INT32]: 4,
  [Kind.INT64]: 8,
  [Kind.FLOAT64]: 8,
  [Kind.UTF8]: 0,
  [Kind.TIMESTAMP]: 8,
  [Kind.DATE]: 4,
  [Kind.JSON]: 0,
  [Kind.BYTES]: 0,
  [Kind.EMBEDDING]: 4,
  [Kind.UUID]: 16,
}

/** The values of a column. What stands at a null row is meaningless and never looked at. */
function decodeColumn(section: Section, column: ColumnInfo, int64: Int64Mode, firstRow: number): Values {
  const { kind, rows, bytes, dataStart } = section
  const buffer = bytes.buffer
  const at = bytes.byteOffset + dataStart
  switch (kind) {
    case Kind.BOOL: {
      const values = new Array<boolean>(rows)
      for (let i = 0; i < rows; i++) values[i] = bytes[dataStart + i] === 1
      return values
    }
    case Kind.INT32:
      return rows === 1 ? [(section.words[dataStart >> 2] as number) | 0] : new Int32Array(buffer, at, rows)
    case Kind.INT64:
      if (int64 === 'bigint') return new BigInt64Array(buffer, at, rows)
      if (int64 === 'string') return Array.from(new BigInt64Array(buffer, at, rows), String)
      return safeNumbers(section, column, firstRow)
    case Kind.FLOAT64:
      return new Float64Array(buffer, at, rows)
    case Kind.UTF8:
      return decodeTexts(section)
    case Kind.TIMESTAMP:
      return decodeTimestamps(section)
    case Kind.DATE: {
      const days = new Int32Array(buffer, at, rows)
      const values = new Array<Date>(rows)
      for (let i = 0; i < rows; i++) values[i] = new Date((days[i] as number) * 86_400_000)
      return values
    }
    case Kind.JSON: {
      const texts = decodeTexts(section)
      const values = new Array<unknown>(rows)
      const validity = section.validity
      for (let i = 0; i < rows; i++) {
        if (validity === undefined || validity[i] === 1) values[i] = JSON.parse(texts[i] as string)
      }
      return values
    }
    case Kind.BYTES: {
      const offsets = offsetsOf(section)
      const values = new Array<Uint8Array>(rows)
      for (let i = 0; i < rows; i++) {
        values[i] = bytes.slice(dataStart + (offsets[i] as number), dataStart + (offsets[i + 1] as number))
      }
      return values
    }
    case Kind.EMBEDDING: {
      const width = section.width
      const all = new Float32Array(buffer, at, rows * width)
      const values = new Array<Float32Array>(rows)
      for (let i = 0; i < rows; i++) values[i] = all.slice(i * width, (i + 1) * width)
      return values
    }
    default:
      return decodeUuids(section)
  }
}

function offsetsOf({ words, offsetsStart, rows }: Section): Uint32Array {
  return words.subarray(offsetsStart >> 2, (offsetsStart >> 2) + rows + 1)
}

/** What a few bytes say, if they are ASCII. */
function shortText(bytes: Uint8Array, start: number, end: number): string | undefined {
  let text = ''
  for (let at = start; at < end; at++) {
    const byte = bytes[at] as number
    if (byte >= 0x80) return undefined
    text += String.fromCharCode(byte)
  }
  return text
}

function decodeTexts(section: Section): string[] {
  const { bytes, dataStart, rows } = section
  if (rows === 1) {
    const end = dataStart + (section.words[(section.offsetsStart >> 2) + 1] as number)
    const text = end - dataStart > SHORT_TEXT_BYTES ? undefined : shortText(bytes, dataStart, end)
    return [text ?? utf8.decode(bytes.subarray(dataStart, end))]
  }
  const offsets = offsetsOf(section)
  const texts = new Array<string>(rows)
  const length = offsets[rows] as number
  if (length > WHOLE_TEXT_BYTES) {
    for (let i = 0; i < rows; i++) {
      texts[i] = utf8.decode(bytes.subarray(dataStart + (offsets[i] as number), dataStart + (offsets[i + 1] as number)))
    }
    return texts
  }
  const whole = utf8.decode(bytes.subarray(dataStart, dataStart + length))
  if (whole.length === length) {
    // As many UTF-16 units as bytes: all ASCII, so byte offsets are string offsets.
    for (let i = 0; i < rows; i++) texts[i] = whole.slice(offsets[i] as number, offsets[i + 1] as number)
    return texts
  }
  let unit = 0
  let at = dataStart
  for (let i = 0; i < rows; i++) {
    const start = unit
    const end = dataStart + (offsets[i + 1] as number)
    for (; at < end; at++) {
      const byte = bytes[at] as number
      // A unit for each leading byte, a second one for what needs a surrogate pair (four bytes, 0xF0 and up).
      if ((byte & 0xc0) !== 0x80) unit += byte >= 0xf0 ? 2 : 1
    }
    texts[i] = whole.slice(start, unit)
  }
  return texts
}

function decodeTimestamps({ bytes, dataStart, rows }: Section): Date[] {
  const words = new Int32Array(bytes.buffer, bytes.byteOffset + dataStart, rows * 2)
  const values = new Array<Date>(rows)
  for (let i = 0; i < rows; i++) {
    const low = (words[2 * i] as number) >>> 0
    const high = words[2 * i + 1] as number
    // Exact below 2^53 µs (the year 2255); beyond that the division is done on the integer.
    const micros = high * 4_294_967_296 + low
    const whole = Number.isSafeInteger(micros) && micros % 1000 === 0
    values[i] = whole ? new Date(micros / 1000) : exactTimestamp((BigInt(high) << 32n) | BigInt(low))
  }
  return values
}

function exactTimestamp(micros: bigint): Date {
  const date = new Timestamp(micros)
  const whole = micros % 1000n === 0n && !Number.isNaN(date.getTime())
  return whole ? new Date(date.getTime()) : date
}

function safeNumbers({ bytes, dataStart, rows, validity }: Section, column: ColumnInfo, firstRow: number): number[] {
  const words = new Int32Array(bytes.buffer, bytes.byteOffset + dataStart, rows * 2)
  const values = new Array<number>(rows)
  for (let i = 0; i < rows; i++) {
    const value = (words[2 * i + 1] as number) * 4_294_967_296 + ((words[2 * i] as number) >>> 0)
    if (!Number.isSafeInteger(value) && (validity === undefined || validity[i] === 1)) {
      const exact = new BigInt64Array(bytes.buffer, bytes.byteOffset + dataStart, rows)[i]
      throw new KalamError({
        code: 'NUMERIC_VALUE_OUT_OF_RANGE',
        message: `column '${column.name}', row ${firstRow + i + 1}: ${exact} is not a safe integer, so it cannot be a number`,
        hint: "Connect with int64: 'bigint' or 'string', or cast the column in the query.",
      })
    }
    values[i] = value
  }
  return values
}

const HEX = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, '0'))

function decodeUuids({ bytes, dataStart, rows }: Section): string[] {
  const values = new Array<string>(rows)
  for (let i = 0; i < rows; i++) {
    let text = ''
    for (let j = 0; j < 16; j++) {
      if (j === 4 || j === 6 || j === 8 || j === 10) text += '-'
      text += HEX[bytes[dataStart + 16 * i + j] as number]
    }
    values[i] = text
  }
  return values
}
