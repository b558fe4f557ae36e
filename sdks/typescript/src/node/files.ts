// A database in files: one append-only log of batches, and in memory where in it every value lies.
//
// Beside the log (batch.ts) and the name of the one that counts (log-folder.ts) a folder holds LOCK: who has it open.
// Invariants:
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
import {
  BATCH_HEADER,
  BatchWriter,
  batchHeader,
  bytesOf,
  checkLogHeader,
  damaged,
  HEADER,
  type Operations,
  readOperations,
  text,
} from './batch.js'
import { builtin, type NodeFs } from './builtin.js'
import { crc32 } from './crc32.js'
import { lockFolder } from './lock-file.js'
import { LogFolder, writeAll } from './log-folder.js'
import { SortedMap } from './sorted-map.js'

const PARTITIONS: readonly StoragePartition[] = ['meta', 'catalog', 'log', 'manifest', 'blob']
const BLOB_PART = 256 * 1024
/** A log below this size is never rewritten by itself. */
const REWRITE_BYTES = 64 << 20
/** Batches of a rewritten log have about this size. */
const REWRITE_BATCH = 1 << 20

/** Where a value lies in the log. */
interface Place {
  at: number
  length: number
}

/** Settings of {@link openFiles}. */
export interface FileStorageOptions {
  /** How long to wait for a process that is just closing the folder, in milliseconds. */
  lockGraceMs?: number | undefined
  /** Whether a storage that is not there is made; `true` unless it is given. */
  create?: boolean | undefined
}

/**
 * Opens the storage in a folder and makes it if it is not there. Pass it as `storage` to `connect`; `connect({ path })`
 * does that by itself.
 *
 * Errors: `DATABASE_LOCKED` while another process or connection has the folder open, `DATA_CORRUPTED`,
 * `UNSUPPORTED_FORMAT` when a later version wrote it, `DATABASE_NOT_FOUND` with `create: false`.
 */
export async function openFiles(folder: string, options: FileStorageOptions = {}): Promise<HostStorage> {
  const fs = builtin<NodeFs>('node:fs')
  if (options.create === false && !fs.existsSync(`${folder}/CURRENT`)) {
    throw new KalamError({ code: 'DATABASE_NOT_FOUND', message: `there is no database in the folder '${folder}'` })
  }
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
    new LogFolder(fs, folder).clear()
  } finally {
    unlock()
  }
  if (fs.readdirSync(folder).length === 0) fs.rmSync(folder, { recursive: true })
}

/** The storage; see the module's comment. */
class FileStorage implements HostStorage {
  private readonly maps = PARTITIONS.map(() => new SortedMap<Place>())
  private readonly files: LogFolder
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
    this.files = new LogFolder(fs, folder)
    this.generation = this.files.current()
    if (this.generation === 0) {
      this.generation = 1
      this.fd = this.files.create(1)
      fs.fsyncSync(this.fd)
      this.files.makeCurrent(1)
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
    this.files.removeAllBut(this.generation)
  }

  /** The log that counts. */
  private get path(): string {
    return this.files.log(this.generation)
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
    checkLogHeader(this.read(0, HEADER), this.path)
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
    const operations: Operations = {
      put: (partition, key, place, length) => this.set(partition, key, { at: at + place, length }),
      delete: (partition, key) => this.remove(partition, key),
      deleteRange: (partition, from, to) => this.removeRange(partition, from, to),
    }
    const unknown = readOperations(batch, operations)
    if (unknown !== undefined) {
      throw damaged(this.path, `the batch at byte ${at} holds an operation of type ${unknown}`)
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
        writeAll(this.fs, this.fd, batch, start)
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
    const { fs, files } = this
    const next = this.generation + 1
    const fd = files.create(next)
    const moved: [Place, number][] = []
    let end = HEADER
    let number = 0
    try {
      let writer = new BatchWriter()
      let places: [Place, number][] = []
      const seal = (): void => {
        number += 1
        writeAll(fs, fd, writer.seal(number, 0), end)
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
      files.makeCurrent(next)
      fs.closeSync(this.fd)
      fs.rmSync(this.path, { force: true })
    } catch (error) {
      if (files.current() === this.generation) {
        fs.closeSync(fd)
        fs.rmSync(files.log(next), { force: true })
        throw error
      }
      // CURRENT names the new log, which is whole and flushed. Whether a loss of power would turn the name back is not
      // known, so the old log stays until the next opening.
    }
    for (const [place, at] of moved) place.at = at
    this.fd = fd
    this.generation = next
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
