// The bytes of a log: its header, batches, and the operations in them.
//
//   header: "KALAMLOG" | u32 version | u32 CRC-32 of the 12 bytes before
//   batch:  u32 "KBAT" | u32 CRC-32 of everything behind it | u32 bytes of payload | u64 number
//           | u64 length of the log that was flushed when the batch was written | payload
//           payload: operations: u8 1 put, 2 delete, 3 delete range | u8 partition | u32 bytes, key
//           [put: u32 bytes, value] [range instead of a key: u8 1 from, 2 to | for each: u32 bytes, key]
//
// Invariant: numbers are little endian, and what is read here was written here: whoever reads a batch has compared its
// checksum before.

import { KalamError } from '../errors.js'
import { crc32 } from './crc32.js'

const MAGIC = 'KALAMLOG'
const VERSION = 1
/** Bytes of a log's header. */
export const HEADER = 16
const BATCH_MAGIC = 0x5441424b
/** Bytes of a batch's header. */
export const BATCH_HEADER = 28
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
    hint: 'Restore a backup.',
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

/** Fails if a log does not begin with a header that this version can read. */
export function checkLogHeader(header: Uint8Array, path: string): void {
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength)
  if (header.length < HEADER || text(header.subarray(0, 8)) !== MAGIC) throw damaged(path, 'it has no header')
  if (view.getUint32(12, true) !== crc32(header.subarray(0, 12))) throw damaged(path, 'its header is damaged')
  const version = view.getUint32(8, true)
  if (version !== VERSION) {
    throw new KalamError({
      code: 'UNSUPPORTED_FORMAT',
      message: `the file '${path}' has version ${version}, expected ${VERSION}`,
      hint: 'It was written by a later version of KalamDB. Update the package.',
    })
  }
}

/** Puts operations one after the other into one buffer, behind room for a batch's header. */
export class BatchWriter {
  private buffer = new Uint8Array(64 * 1024)
  private view = new DataView(this.buffer.buffer)
  /** Bytes so far, the header's among them. */
  length = BATCH_HEADER

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

  /** Adds a length and the bytes; gives the place of the bytes in the buffer. */
  private bytes(value: Uint8Array): number {
    this.reserve(4 + value.length)
    this.view.setUint32(this.length, value.length, true)
    this.buffer.set(value, this.length + 4)
    const at = this.length + 4
    this.length = at + value.length
    return at
  }

  /** Adds a value; gives its place in the batch. */
  put(partition: number, key: Uint8Array, value: Uint8Array): number {
    this.byte(PUT)
    this.byte(partition)
    this.bytes(key)
    return this.bytes(value)
  }

  /** Adds the removal of a key. */
  delete(partition: number, key: Uint8Array): void {
    this.byte(DELETE)
    this.byte(partition)
    this.bytes(key)
  }

  /** Adds the removal of a range of keys. */
  deleteRange(partition: number, from: Uint8Array | undefined, to: Uint8Array | undefined): void {
    this.byte(RANGE)
    this.byte(partition)
    this.byte((from === undefined ? 0 : 1) | (to === undefined ? 0 : 2))
    if (from !== undefined) this.bytes(from)
    if (to !== undefined) this.bytes(to)
  }

  /** The batch with its header. */
  seal(number: number, synced: number): Uint8Array {
    const { view } = this
    view.setUint32(0, BATCH_MAGIC, true)
    view.setUint32(8, this.length - BATCH_HEADER, true)
    view.setBigUint64(12, BigInt(number), true)
    view.setBigUint64(20, BigInt(synced), true)
    const batch = this.buffer.subarray(0, this.length)
    view.setUint32(4, crc32(batch.subarray(8)), true)
    return batch
  }
}

/** What the header of a batch says. */
export interface BatchHeader {
  crc: number
  /** Bytes of its payload. */
  length: number
  number: number
  /** So much of the log was flushed when it was written. */
  synced: number
}

/** The header of a batch, if `bytes` begin with one that can be. */
export function batchHeader(bytes: Uint8Array): BatchHeader | undefined {
  if (bytes.length < BATCH_HEADER) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (view.getUint32(0, true) !== BATCH_MAGIC) return undefined
  return {
    crc: view.getUint32(4, true),
    length: view.getUint32(8, true),
    number: Number(view.getBigUint64(12, true)),
    synced: Number(view.getBigUint64(20, true)),
  }
}

/** Told about the operations of a batch; keys are text. */
export interface Operations {
  /** `at` is the value's place in the batch. */
  put(partition: number, key: string, at: number, length: number): void
  delete(partition: number, key: string): void
  deleteRange(partition: number, from: string | undefined, to: string | undefined): void
}

/** Reads the operations of a batch; gives the type of the first that is none. */
export function readOperations(batch: Uint8Array, to: Operations): number | undefined {
  const view = new DataView(batch.buffer, batch.byteOffset, batch.byteLength)
  let place = BATCH_HEADER
  const bytes = (): Uint8Array => {
    const length = view.getUint32(place, true)
    const found = batch.subarray(place + 4, place + 4 + length)
    place += 4 + length
    return found
  }
  while (place < batch.length) {
    const type = batch[place]
    const partition = batch[place + 1] as number
    place += 2
    if (type === RANGE) {
      const ends = batch[place++] as number
      const from = ends & 1 ? text(bytes()) : undefined
      to.deleteRange(partition, from, ends & 2 ? text(bytes()) : undefined)
    } else if (type === PUT) {
      const key = text(bytes())
      const { length } = bytes()
      to.put(partition, key, place - length, length)
    } else if (type === DELETE) {
      to.delete(partition, text(bytes()))
    } else {
      return type as number
    }
  }
  return undefined
}
