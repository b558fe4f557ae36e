// The bytes of a log: its header, batches, and the operations in them.
//
//   header: "KALAMLOG" | u32 version | u32 CRC-32 of the 12 bytes before
//   batch:  u32 "KBAT" | u32 CRC-32 of everything from here to the values | u32 bytes of operations | u32 bytes of values
//           | u64 number | u64 length of the log that was flushed when the batch was written | operations | values
//           operation: u8 1 put, 2 delete, 3 delete range | u8 partition | u32 bytes, key
//           [put: u32 bytes of its value, u32 CRC-32 of it] [range instead of a key: u8 1 from, 2 to | for each: u32 bytes, key]
//
// In version 1, which is read and not written, there is no count of values: they stand among the operations, behind their
// lengths, and the batch's checksum is over them too.
//
// Invariant: numbers are little endian, and what is read here was written here: whoever reads operations has compared
// their checksum before. Values have checksums of their own, so damage of one is not damage of the log.

import { joined } from '../bytes.js'
import { KalamError } from '../errors.js'
import { crc32 } from './crc32.js'

const MAGIC = 'KALAMLOG'
/** The version that is written. */
export const VERSION = 2
/** Bytes of a log's header. */
export const HEADER = 16
const BATCH_MAGIC = 0x5441424b
/** Bytes of a batch's header. */
const BATCH_HEADER = 32
const BATCH_HEADER_1 = 28
const PUT = 1
const DELETE = 2
const RANGE = 3

/** Bytes as text, one byte a character: its order is that of the bytes. */
export function text(bytes: Uint8Array): string {
  let out = ''
  for (let i = 0; i < bytes.length; i += 8192) out += String.fromCharCode(...bytes.subarray(i, i + 8192))
  return out
}

/** The bytes of such a text. */
export function bytesOf(key: string): Uint8Array {
  const out = new Uint8Array(key.length)
  for (let i = 0; i < key.length; i++) out[i] = key.charCodeAt(i)
  return out
}

/** What is wrong with a file that cannot be as it is. */
export function damaged(path: string, what: string): KalamError {
  return new KalamError({
    code: 'DATA_CORRUPTED',
    message: `the file '${path}' is damaged: ${what}`,
    hint: '`rescue` gives a backup of what can be read of it; or restore a backup.',
  })
}

/** The header of a log. */
export function logHeader(): Uint8Array {
  const header = new Uint8Array(HEADER)
  header.set(new TextEncoder().encode(MAGIC))
  const view = new DataView(header.buffer)
  view.setUint32(8, VERSION, true)
  view.setUint32(12, crc32(header.subarray(0, 12)), true)
  return header
}

/** The version of a log; fails if it does not begin with a header that this version can read. */
export function logVersion(header: Uint8Array, path: string): number {
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength)
  if (header.length < HEADER || text(header.subarray(0, 8)) !== MAGIC) throw damaged(path, 'it has no header')
  if (view.getUint32(12, true) !== crc32(header.subarray(0, 12))) throw damaged(path, 'its header is damaged')
  const version = view.getUint32(8, true)
  if (version === 1 || version === VERSION) return version
  throw new KalamError({
    code: 'UNSUPPORTED_FORMAT',
    message: `the file '${path}' has version ${version}, expected ${VERSION}`,
    hint: 'It was written by a later version of KalamDB. Update the package.',
  })
}

/** Gathers the operations of a batch, behind room for its header, and their values. */
export class BatchWriter {
  private buffer = new Uint8Array(4 * 1024)
  private view = new DataView(this.buffer.buffer)
  private length = BATCH_HEADER
  private readonly values: Uint8Array[] = []
  private bytesOfValues = 0

  /** Bytes of the batch so far. */
  get size(): number {
    return this.length + this.bytesOfValues
  }

  /** Where the values begin in the batch, once every operation is in. */
  get valuesAt(): number {
    return this.length
  }

  private reserve(bytes: number): void {
    if (this.length + bytes <= this.buffer.length) return
    const grown = new Uint8Array(Math.max(this.buffer.length * 2, this.length + bytes))
    grown.set(this.buffer.subarray(0, this.length))
    this.buffer = grown
    this.view = new DataView(grown.buffer)
  }

  private byte(value: number): void {
    this.reserve(1)
    this.buffer[this.length++] = value
  }

  private number(value: number): void {
    this.reserve(4)
    this.view.setUint32(this.length, value, true)
    this.length += 4
  }

  private key(key: Uint8Array): void {
    this.number(key.length)
    this.reserve(key.length)
    this.buffer.set(key, this.length)
    this.length += key.length
  }

  /** Adds a value; gives its place among the values. */
  put(partition: number, key: Uint8Array, value: Uint8Array): number {
    this.byte(PUT)
    this.byte(partition)
    this.key(key)
    this.number(value.length)
    this.number(crc32(value))
    this.values.push(value)
    const at = this.bytesOfValues
    this.bytesOfValues += value.length
    return at
  }

  /** Adds the removal of a key. */
  delete(partition: number, key: Uint8Array): void {
    this.byte(DELETE)
    this.byte(partition)
    this.key(key)
  }

  /** Adds the removal of a range of keys. */
  deleteRange(partition: number, from: Uint8Array | undefined, to: Uint8Array | undefined): void {
    this.byte(RANGE)
    this.byte(partition)
    this.byte((from === undefined ? 0 : 1) | (to === undefined ? 0 : 2))
    if (from !== undefined) this.key(from)
    if (to !== undefined) this.key(to)
  }

  /** The batch. */
  seal(number: number, synced: number): Uint8Array {
    const { view } = this
    view.setUint32(0, BATCH_MAGIC, true)
    view.setUint32(8, this.length - BATCH_HEADER, true)
    view.setUint32(12, this.bytesOfValues, true)
    view.setBigUint64(16, BigInt(number), true)
    view.setBigUint64(24, BigInt(synced), true)
    view.setUint32(4, crc32(this.buffer.subarray(8, this.length)), true)
    return joined([this.buffer.subarray(0, this.length), ...this.values])
  }
}

/** What the header of a batch says. */
export interface BatchHeader {
  crc: number
  /** Bytes of the header and the operations: what the checksum is over, but for the first 8. */
  operations: number
  /** Whether it holds no operation. */
  empty: boolean
  /** Bytes of the batch. */
  length: number
  number: number
  /** So much of the log was flushed when it was written. */
  synced: number
}

/** The most bytes that the header of a batch has. */
export const MOST_HEADER = BATCH_HEADER

/** The header of a batch, if `bytes` begin with one that can be. */
export function batchHeader(bytes: Uint8Array, version: number): BatchHeader | undefined {
  const header = version === 1 ? BATCH_HEADER_1 : BATCH_HEADER
  if (bytes.length < header) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (view.getUint32(0, true) !== BATCH_MAGIC) return undefined
  const operations = header + view.getUint32(8, true)
  return {
    crc: view.getUint32(4, true),
    operations,
    empty: operations === header,
    length: operations + (version === 1 ? 0 : view.getUint32(12, true)),
    number: Number(view.getBigUint64(header - 16, true)),
    synced: Number(view.getBigUint64(header - 8, true)),
  }
}

/** Told about the operations of a batch; keys are text. */
export interface Operations {
  /** `at` is the value's place in the batch; `crc` its checksum, unless the batch's own is over it. */
  put(partition: number, key: string, at: number, length: number, crc: number | undefined): void
  delete(partition: number, key: string): void
  deleteRange(partition: number, from: string | undefined, to: string | undefined): void
}

/** Reads the operations of a batch, given its bytes up to the values; gives the type of the first that is none. */
export function readOperations(batch: Uint8Array, version: number, to: Operations): number | undefined {
  const view = new DataView(batch.buffer, batch.byteOffset, batch.byteLength)
  let place = version === 1 ? BATCH_HEADER_1 : BATCH_HEADER
  let valuesAt = batch.length
  const number = (): number => {
    place += 4
    return view.getUint32(place - 4, true)
  }
  const key = (): string => {
    const length = number()
    place += length
    return text(batch.subarray(place - length, place))
  }
  while (place < batch.length) {
    const type = batch[place]
    const partition = batch[place + 1] as number
    place += 2
    if (type === RANGE) {
      const ends = batch[place++] as number
      const from = ends & 1 ? key() : undefined
      to.deleteRange(partition, from, ends & 2 ? key() : undefined)
    } else if (type === PUT) {
      const put = key()
      const length = number()
      if (version === 1) {
        to.put(partition, put, place, length, undefined)
        place += length
      } else {
        to.put(partition, put, valuesAt, length, number())
        valuesAt += length
      }
    } else if (type === DELETE) {
      to.delete(partition, key())
    } else {
      return type as number
    }
  }
  return undefined
}
