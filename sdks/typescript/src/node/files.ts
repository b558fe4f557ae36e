// A database in files: one append-only log of batches, and in memory where in it every value lies.
//
//   LOCK         who has it open
//   CURRENT      the name of the log, with a checksum; replaced by renaming
//   data-N.log   header: "KALAMLOG" | u32 version | u32 CRC-32 of the 12 bytes before
//                then batches: u32 "KBAT" | u32 CRC-32 of everything behind it | u32 bytes of payload | u64 number
//                | u64 length of the log that was flushed when the batch was written | payload
//                payload: operations: u8 1 put, 2 delete, 3 delete range | u8 partition | u32 bytes, key
//                [put: u32 bytes, value] [range instead of a key: u8 1 from, 2 to | for each: u32 bytes, key]
//
// Numbers are little endian but for the checksum's own text. Invariants:
// - A batch is one write at the end of the log. It counts when all of it is there and its checksum is right, so a batch
//   that a crash cut off is not there; opening cuts it away. What is damaged before that, within what was flushed, is
//   an error and never cut.
// - A commit is acknowledged after its write (`relaxed`: the operating system has it) or after its flush (`strict`), and
//   reads see it from then on. A write that fails is cut off again before the next one.
// - Commits run one after the other, in the order of their calls.
// - A log with much garbage is rewritten: the new one is flushed before `CURRENT` names it.

import { joined } from '../bytes.js'
import { KalamError } from '../errors.js'
import type { HostStorage, StorageOperation, StoragePartition, StorageScan, StorageStatistics } from '../storage.js'
import type { Durability } from '../types.js'
import { builtin, crc32, type NodeFs, syncFolder } from './builtin.js'
import { lockFolder } from './lock-file.js'
import { SortedMap } from './sorted-map.js'

const PARTITIONS: readonly StoragePartition[] = ['meta', 'catalog', 'log', 'manifest', 'blob']
const MAGIC = 'KALAMLOG'
const VERSION = 1
const HEADER = 16
const BATCH_MAGIC = 0x5441424b
const BATCH_HEADER = 28
const BLOB_PART = 256 * 1024
const PUT = 1
const DELETE = 2
const RANGE = 3
/** A log below this size is never rewritten by itself. */
const REWRITE_BYTES = 64 << 20
/** Batches of a rewritten log have about this size. */
const REWRITE_BATCH = 1 << 20

/** Where a value lies in the log. */
interface Place {
  at: number
  length: number
}

const utf8 = new TextEncoder()

/** Bytes as text, one byte a character: its order is that of the bytes. */
function text(bytes: Uint8Array): string {
  let out = ''
  for (let i = 0; i < bytes.length; i += 8192) out += String.fromCharCode(...bytes.subarray(i, i + 8192))
  return out
}

function bytesOf(key: string): Uint8Array {
  const out = new Uint8Array(key.length)
  for (let i = 0; i < key.length; i++) out[i] = key.charCodeAt(i)
  return out
}

function damaged(path: string, what: string): KalamError {
  return new KalamError({
    code: 'DATA_CORRUPTED',
    message: `the file '${path}' is damaged: ${what}`,
    hint: 'Restore a backup.',
  })
}

/** Puts operations one after the other into one buffer, behind room for a batch's header. */
class BatchWriter {
  private buffer = new Uint8Array(64 * 1024)
  private view = new DataView(this.buffer.buffer)
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

  put(partition: number, key: Uint8Array, value: Uint8Array): number {
    this.byte(PUT)
    this.byte(partition)
    this.bytes(key)
    return this.bytes(value)
  }

  delete(partition: number, key: Uint8Array): void {
    this.byte(DELETE)
    this.byte(partition)
    this.bytes(key)
  }

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

/** The header of a batch, if `bytes` begin with one that can be. */
function batchHeader(bytes: Uint8Array): { crc: number; length: number; number: number; synced: number } | undefined {
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

/** Settings of {@link openFiles}. */
export interface FileStorageOptions {
  /** How long to wait for a process that is just closing the folder, in milliseconds. */
  lockGraceMs?: number | undefined
}

/**
 * Opens the storage in a folder and makes it if it is not there. Pass it as `storage` to `connect`; `connect({ path })`
 * does that by itself.
 *
 * Errors: `DATABASE_LOCKED` while another process or connection has the folder open, `DATA_CORRUPTED`,
 * `UNSUPPORTED_FORMAT` when a later version wrote it.
 */
export async function openFiles(folder: string, options: FileStorageOptions = {}): Promise<HostStorage> {
  const fs = builtin<NodeFs>('node:fs')
  fs.mkdirSync(folder, { recursive: true })
  const unlock = await lockFolder(folder, options.lockGraceMs)
  try {
    return new FileStorage(fs, folder, unlock)
  } catch (error) {
    unlock()
    throw error
  }
}

/** Deletes the storage in a folder; nothing happens if there is none. `DATABASE_LOCKED` while it is open. */
export async function deleteFiles(folder: string): Promise<void> {
  const fs = builtin<NodeFs>('node:fs')
  if (!fs.existsSync(folder)) return
  const unlock = await lockFolder(folder)
  try {
    for (const name of fs.readdirSync(folder)) {
      // Nothing that is not ours.
      if (name === 'CURRENT' || /^data-\d+\.log$/.test(name) || name.endsWith('.tmp')) fs.rmSync(`${folder}/${name}`)
    }
  } finally {
    unlock()
  }
  if (fs.readdirSync(folder).length === 0) fs.rmSync(folder, { recursive: true })
}

/** The storage; see the module's comment. */
class FileStorage implements HostStorage {
  private readonly maps = PARTITIONS.map(() => new SortedMap<Place>())
  private path: string
  private generation: number
  private fd: number
  /** Where the next batch goes. */
  private end = HEADER
  /** So much of the log is flushed. */
  private synced = 0
  private number = 0
  /** Something may lie behind `end` that a failed write left. */
  private dirty = false
  private live = 0
  private closed = false
  private closing: Promise<void> | undefined
  private queue: Promise<unknown> = Promise.resolve()

  constructor(
    private readonly fs: NodeFs,
    private readonly folder: string,
    private readonly unlock: () => void,
  ) {
    this.generation = this.readCurrent()
    this.path = this.logPath(this.generation)
    if (this.generation === 0) {
      this.generation = 1
      this.path = this.logPath(1)
      this.fd = this.createLog(this.path)
      fs.fsyncSync(this.fd)
      this.writeCurrent(1)
      this.synced = HEADER
      return
    }
    this.fd = fs.openSync(this.path, 'r+')
    try {
      this.load()
    } catch (error) {
      fs.closeSync(this.fd)
      throw error
    }
    for (const name of fs.readdirSync(folder)) {
      // What a rewrite left that did not come to its end.
      const stale = /^data-\d+\.log$/.test(name) && `${folder}/${name}` !== this.path
      if (stale || name === 'CURRENT.tmp') fs.rmSync(`${folder}/${name}`, { force: true })
    }
  }

  private logPath(generation: number): string {
    return `${this.folder}/data-${generation}.log`
  }

  /** The number of the log that counts; 0 if there is none. */
  private readCurrent(): number {
    const path = `${this.folder}/CURRENT`
    if (!this.fs.existsSync(path)) return 0
    const content = new TextDecoder().decode(this.fs.readFileSync(path))
    const found = /^data-(\d+)\.log ([0-9a-f]+)\n$/.exec(content)
    const generation = Number(found?.[1])
    if (found === null || crc32(utf8.encode(`data-${generation}.log`)).toString(16) !== found[2]) {
      throw damaged(path, `it holds ${JSON.stringify(content.slice(0, 60))}`)
    }
    if (!this.fs.existsSync(this.logPath(generation)))
      throw damaged(path, `it names data-${generation}.log, which is gone`)
    return generation
  }

  private writeCurrent(generation: number): void {
    const { fs, folder } = this
    const name = `data-${generation}.log`
    const bytes = utf8.encode(`${name} ${crc32(utf8.encode(name)).toString(16)}\n`)
    const fd = fs.openSync(`${folder}/CURRENT.tmp`, 'w')
    try {
      this.writeAll(fd, bytes, 0)
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
    // The log's own name first: CURRENT must never name what is not there.
    syncFolder(fs, folder)
    fs.renameSync(`${folder}/CURRENT.tmp`, `${folder}/CURRENT`)
    syncFolder(fs, folder)
  }

  private createLog(path: string): number {
    const fd = this.fs.openSync(path, 'w+')
    const header = new Uint8Array(HEADER)
    header.set(utf8.encode(MAGIC))
    const view = new DataView(header.buffer)
    view.setUint32(8, VERSION, true)
    view.setUint32(12, crc32(header.subarray(0, 12)), true)
    try {
      this.writeAll(fd, header, 0)
    } catch (error) {
      this.fs.closeSync(fd)
      throw error
    }
    return fd
  }

  private writeAll(fd: number, bytes: Uint8Array, at: number): void {
    for (let done = 0; done < bytes.length; ) {
      done += this.fs.writeSync(fd, bytes, done, bytes.length - done, at + done)
    }
  }

  private read(at: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    let done = 0
    while (done < length) {
      const count = this.fs.readSync(this.fd, bytes, done, length - done, at + done)
      if (count === 0) break
      done += count
    }
    return done === length ? bytes : bytes.subarray(0, done)
  }

  /** Reads the log from its beginning, and cuts off what a crash left of its last batch. */
  private load(): void {
    const size = this.fs.fstatSync(this.fd).size
    const header = this.read(0, HEADER)
    const view = new DataView(header.buffer, header.byteOffset, header.byteLength)
    if (header.length < HEADER || text(header.subarray(0, 8)) !== MAGIC) throw damaged(this.path, 'it has no header')
    if (view.getUint32(12, true) !== crc32(header.subarray(0, 12))) throw damaged(this.path, 'its header is damaged')
    const version = view.getUint32(8, true)
    if (version !== VERSION) {
      throw new KalamError({
        code: 'UNSUPPORTED_FORMAT',
        message: `the file '${this.path}' has version ${version}, expected ${VERSION}`,
        hint: 'It was written by a later version of KalamDB. Update the package.',
      })
    }
    let at = HEADER
    while (at < size) {
      const found = batchHeader(this.read(at, BATCH_HEADER))
      const next = found === undefined ? size + 1 : at + BATCH_HEADER + found.length
      if (found === undefined || next > size || found.number !== this.number + 1) break
      const batch = this.read(at, BATCH_HEADER + found.length)
      if (crc32(batch.subarray(8)) !== found.crc) break
      this.replay(batch, at)
      this.number = found.number
      at = next
    }
    this.end = at
    if (at < size) {
      this.checkTail(at, size)
      this.fs.ftruncateSync(this.fd, at)
    }
    // What was there before the crash is now promised to whoever reads it.
    this.fs.fsyncSync(this.fd)
    this.synced = at
  }

  /** Fails if what lies behind `at` says that the log was flushed beyond it: then it is damage, and not a torn end. */
  private checkTail(at: number, size: number): void {
    const tail = this.read(at, Math.min(size - at, 256 << 20))
    for (let i = 1; i + BATCH_HEADER <= tail.length; i++) {
      if (tail[i] !== 0x4b || tail[i + 1] !== 0x42 || tail[i + 2] !== 0x41 || tail[i + 3] !== 0x54) continue
      const found = batchHeader(tail.subarray(i))
      if (found === undefined || found.number <= this.number || found.synced <= at) continue
      const batch = tail.subarray(i, i + BATCH_HEADER + found.length)
      if (batch.length === BATCH_HEADER + found.length && crc32(batch.subarray(8)) === found.crc) {
        throw damaged(this.path, `the batch at byte ${at} does not have its checksum, and the file goes on after it`)
      }
    }
  }

  private replay(batch: Uint8Array, at: number): void {
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
        this.removeRange(partition, from, ends & 2 ? text(bytes()) : undefined)
      } else if (type === PUT) {
        const key = text(bytes())
        const value = bytes()
        this.set(partition, key, { at: at + place - value.length, length: value.length })
      } else if (type === DELETE) {
        this.remove(partition, text(bytes()))
      } else {
        throw damaged(this.path, `the batch at byte ${at} holds an operation of type ${type}`)
      }
    }
  }

  private map(partition: number): SortedMap<Place> {
    const map = this.maps[partition]
    if (map === undefined) throw damaged(this.path, `it has a partition ${partition}`)
    return map
  }

  private set(partition: number, key: string, place: Place): void {
    const old = this.map(partition).set(key, place)
    this.live += place.length - (old?.length ?? -key.length - 10)
  }

  private remove(partition: number, key: string): void {
    const old = this.map(partition).delete(key)
    if (old !== undefined) this.live -= old.length + key.length + 10
  }

  private removeRange(partition: number, from: string | undefined, to: string | undefined): void {
    const keys = [...this.map(partition).range(from, to)].map(([key]) => key)
    for (const key of keys) this.remove(partition, key)
  }

  private checkOpen(): void {
    if (this.closed) throw new KalamError({ code: 'CONNECTION_CLOSED', message: 'the database is closed' })
  }

  private value({ at, length }: Place): Uint8Array {
    const bytes = this.read(at, length)
    if (bytes.length < length) throw damaged(this.path, `it ends before byte ${at + length}`)
    return bytes
  }

  get(partition: StoragePartition, key: Uint8Array): Uint8Array | undefined {
    this.checkOpen()
    const place = this.map(PARTITIONS.indexOf(partition)).get(text(key))
    return place && this.value(place)
  }

  scan(partition: StoragePartition, { from, to, limit, reverse }: StorageScan): [Uint8Array, Uint8Array][] {
    this.checkOpen()
    const map = this.map(PARTITIONS.indexOf(partition))
    const ends = [from && text(from), to && text(to)] as const
    const found: [Uint8Array, Uint8Array][] = []
    for (const [key, place] of reverse ? map.reverse(...ends) : map.range(...ends)) {
      if (limit !== undefined && found.length >= limit) break
      found.push([bytesOf(key), this.value(place)])
    }
    return found
  }

  readBlob(id: Uint8Array, offset: number, length: number): Uint8Array | undefined {
    this.checkOpen()
    const key = new Uint8Array(id.length + 6)
    const view = new DataView(key.buffer)
    view.setUint16(0, id.length)
    key.set(id, 2)
    const parts = this.map(PARTITIONS.indexOf('blob'))
    const part = (number: number): Place | undefined => {
      view.setUint32(id.length + 2, number)
      return parts.get(text(key))
    }
    if (part(0) === undefined) return undefined
    const pieces: Uint8Array[] = []
    let total = 0
    for (let number = Math.floor(offset / BLOB_PART); total < length; number++) {
      const place = part(number)
      const skip = Math.max(offset - number * BLOB_PART, 0)
      if (place === undefined || skip > place.length) break
      const count = Math.min(place.length - skip, length - total)
      if (count > 0) pieces.push(this.value({ at: place.at + skip, length: count }))
      total += count
      if (place.length < BLOB_PART) break
    }
    return joined(pieces)
  }

  stats(): StorageStatistics {
    this.checkOpen()
    const records = this.maps.reduce((sum, map) => sum + map.size, 0)
    let free: number | undefined
    try {
      const { bsize, bavail } = this.fs.statfsSync(this.folder)
      free = bsize * bavail
    } catch {
      // Not told here.
    }
    return { records, bytes: this.live, usage: this.end, ...(free !== undefined && { quota: this.end + free }) }
  }

  commit(operations: readonly StorageOperation[], { durability }: { durability: Durability }): Promise<Durability> {
    return this.next(() => this.write(operations, durability))
  }

  private next<T>(run: () => Promise<T>): Promise<T> {
    this.checkOpen()
    const done = this.queue.then(run)
    this.queue = done.catch(() => {})
    return done
  }

  private async write(operations: readonly StorageOperation[], durability: Durability): Promise<Durability> {
    const writer = new BatchWriter()
    const changes: (() => void)[] = []
    const start = this.end
    for (const operation of operations) {
      const partition = PARTITIONS.indexOf(operation.partition)
      if (operation.type === 'put') {
        const { key, value } = operation
        const place = { at: start + writer.put(partition, key, value), length: value.length }
        changes.push(() => this.set(partition, text(key), place))
      } else if (operation.type === 'delete') {
        const { key } = operation
        writer.delete(partition, key)
        changes.push(() => this.remove(partition, text(key)))
      } else {
        const { from, to } = operation
        writer.deleteRange(partition, from, to)
        changes.push(() => this.removeRange(partition, from && text(from), to && text(to)))
      }
    }
    const strict = durability === 'strict'
    if (changes.length > 0) {
      const batch = writer.seal(this.number + 1, this.synced)
      this.cut()
      this.dirty = true
      try {
        this.writeAll(this.fd, batch, start)
        if (strict) await this.flush()
      } catch (error) {
        // Cut off at once if it can be; if not, before the next batch, which would otherwise come after a hole.
        try {
          this.cut()
        } catch {
          // It stays marked.
        }
        throw error
      }
      this.dirty = false
      this.number += 1
      this.end = start + batch.length
      for (const change of changes) change()
    } else if (strict) {
      await this.flush()
    }
    if (strict) this.synced = this.end
    if (!this.closed && this.end > REWRITE_BYTES && this.end > 2.5 * this.live) void this.compact().catch(() => {})
    return strict ? 'strict' : 'relaxed'
  }

  /** Removes what a failed write may have left behind the end. */
  private cut(): void {
    if (!this.dirty) return
    this.fs.ftruncateSync(this.fd, this.end)
    this.dirty = false
  }

  private flush(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.fs.fdatasync(this.fd, error => (error === null || error === undefined ? resolve() : reject(error)))
    })
  }

  /** Rewrites the log without garbage. */
  compact(): Promise<void> {
    return this.next(async () => this.rewrite())
  }

  private rewrite(): void {
    const { fs } = this
    const path = this.logPath(this.generation + 1)
    const fd = this.createLog(path)
    const moved: [Place, number][] = []
    let end = HEADER
    let number = 0
    try {
      let writer = new BatchWriter()
      let places: [Place, number][] = []
      const seal = (): void => {
        number += 1
        this.writeAll(fd, writer.seal(number, 0), end)
        for (const [place, at] of places) moved.push([place, end + at])
        end += writer.length
        writer = new BatchWriter()
        places = []
      }
      this.maps.forEach((map, partition) => {
        for (const [key, place] of map.range(undefined, undefined)) {
          places.push([place, writer.put(partition, bytesOf(key), this.value(place))])
          if (writer.length > REWRITE_BATCH) seal()
        }
      })
      if (places.length > 0) seal()
      fs.fsyncSync(fd)
      this.writeCurrent(this.generation + 1)
      fs.closeSync(this.fd)
      fs.rmSync(this.path, { force: true })
    } catch (error) {
      if (this.readCurrent() === this.generation) {
        fs.closeSync(fd)
        fs.rmSync(path, { force: true })
        throw error
      }
      // CURRENT names the new log, which is whole and flushed. Whether a loss of power would turn the name back is not
      // known, so the old log stays until the next opening.
    }
    for (const [place, at] of moved) place.at = at
    this.fd = fd
    this.path = path
    this.generation += 1
    this.end = end
    this.synced = end
    this.number = number
    this.dirty = false
  }

  close(): Promise<void> {
    this.closing ??= this.finish()
    return this.closing
  }

  private async finish(): Promise<void> {
    // The commits under way come to their end; later ones are refused.
    this.closed = true
    await this.queue
    try {
      if (this.synced < this.end) await this.flush()
    } finally {
      this.fs.closeSync(this.fd)
      this.unlock()
    }
  }
}
