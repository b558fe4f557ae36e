// A database in files: one append-only log of batches, and in memory where in it every value lies.
//
// Beside the log (batch.ts) and the name of the one that counts (log-folder.ts) a folder holds LOCK: who has it open.
// Invariants:
// - A batch is one write at the end of the log. It counts when all of it is there and its checksums are right, so a batch
//   that a crash cut off is not there; opening cuts it away. What is damaged before that, within what was flushed, is
//   never cut (log-reader.ts): a batch is an error, a value is left to the checksums of the engine.
// - Closing and opening flush the log and say so in it, by a batch without operations: from then on all of it is what was
//   flushed.
// - A commit is acknowledged after its write (`relaxed`: the operating system has it) or after its flush (`strict`), and
//   reads see it from then on. A write that fails is cut off again before the next one.
// - Commits run one after the other, in the order of their calls.
// - A log with much garbage is rewritten: the new one is flushed before `CURRENT` names it.

import { joined } from '../bytes.js'
import { KalamError } from '../errors.js'
import { checkOptions, invalid } from '../options.js'
import { show } from '../packed/encode.js'
import type {
  HostStorage,
  StorageDamage,
  StorageOperation,
  StoragePartition,
  StorageScan,
  StorageStatistics,
} from '../storage.js'
import type { Durability } from '../types.js'
import { BatchWriter, bytesOf, damaged, HEADER, text, VERSION } from './batch.js'
import { builtin, type NodeFs } from './builtin.js'
import { lockFolder } from './lock-file.js'
import { LogFolder, writeAll } from './log-folder.js'
import { readLog } from './log-reader.js'
import { SortedMap } from './sorted-map.js'

const PARTITIONS: readonly StoragePartition[] = ['meta', 'catalog', 'log', 'manifest', 'blob']
const BLOB_PART = 256 * 1024
/** A log below this size is never rewritten by itself. */
const REWRITE_BYTES = 8 << 20
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
  /**
   * Reads what can be read of a damaged log and changes nothing: `damage` of the storage tells what cannot be read, and
   * `commit` is refused. A storage that is not there is not made.
   */
  salvage?: boolean | undefined
}

/**
 * Opens the storage in a folder and makes it if it is not there. Pass it as `storage` to `connect`; `connect({ path })`
 * does that by itself.
 *
 * Errors: `DATABASE_LOCKED` while another process or connection has the folder open, `DATA_CORRUPTED`,
 * `UNSUPPORTED_FORMAT` when a later version wrote it, `DATABASE_NOT_FOUND` with `create: false`.
 */
export async function openFiles(folder: string, options: FileStorageOptions = {}): Promise<HostStorage> {
  checkOptions(options, ['lockGraceMs', 'create', 'salvage'])
  const fs = builtin<NodeFs>('node:fs')
  folder = absolute(folder)
  const { create = true, salvage = false, lockGraceMs } = options
  if ((!create || salvage) && !new LogFolder(fs, folder).exists()) {
    throw new KalamError({ code: 'DATABASE_NOT_FOUND', message: `there is no database in the folder '${folder}'` })
  }
  try {
    fs.mkdirSync(folder, { recursive: true })
    const unlock = await lockFolder(folder, lockGraceMs)
    try {
      return new FileStorage(fs, folder, unlock, salvage)
    } catch (error) {
      unlock()
      throw error
    }
  } catch (error) {
    throw fileError(error, folder)
  }
}

/** Deletes the storage in a folder; nothing happens if there is none. `DATABASE_LOCKED` while it is open. */
export async function deleteFiles(folder: string): Promise<void> {
  const fs = builtin<NodeFs>('node:fs')
  folder = absolute(folder)
  if (!fs.existsSync(folder)) return
  try {
    const unlock = await lockFolder(folder)
    try {
      new LogFolder(fs, folder).clear()
    } finally {
      unlock()
    }
    if (fs.readdirSync(folder).length === 0) fs.rmSync(folder, { recursive: true })
  } catch (error) {
    throw fileError(error, folder)
  }
}

/** The folder wherever the process goes: a relative name would mean another one later. */
function absolute(folder: unknown): string {
  if (typeof folder === 'string' && folder !== '')
    return builtin<{ resolve(path: string): string }>('node:path').resolve(folder)
  throw invalid(`the folder is ${show(folder)}, expected its name`)
}

const isFull = (error: unknown): boolean => ['ENOSPC', 'EDQUOT'].includes(String((error as { code?: unknown })?.code))

/** What the file system refuses, as an error of this package. */
function fileError(error: unknown, folder: string): unknown {
  const { code, message } = error as { code?: unknown; message?: unknown }
  if (error instanceof KalamError || typeof code !== 'string') return error
  return new KalamError({
    code: isFull(error) ? 'QUOTA_EXCEEDED' : 'STORAGE_ERROR',
    message: `the folder '${folder}' cannot be used: ${String(message)}`,
    hint: code === 'ENOTDIR' || code === 'EEXIST' ? '`path` is a folder, and databases are folders in it.' : undefined,
    cause: error,
  })
}

/** The storage; see the module's comment. */
class FileStorage implements HostStorage {
  private maps = PARTITIONS.map(() => new SortedMap<Place>())
  private readonly files: LogFolder
  private generation: number
  private fd: number
  /** Where the next batch goes. */
  private end = HEADER
  /** So much of the log is flushed. */
  private synced = 0
  private number = 0
  /** Where the last batch with operations ends, and how much of the log its batches say was flushed. */
  private operationsEnd = HEADER
  private saidSynced = HEADER
  /** How much of it `CURRENT` says was flushed. */
  private toldFlushed = HEADER
  /** Something may lie behind `end` that a failed write left. */
  private dirty = false
  private live = 0
  private closed = false
  private closing: Promise<void> | undefined
  private queue: Promise<unknown> = Promise.resolve()
  private lost: StorageDamage[] = []

  constructor(
    private readonly fs: NodeFs,
    private readonly folder: string,
    private readonly unlock: () => void,
    private readonly salvage: boolean,
  ) {
    this.files = new LogFolder(fs, folder)
    const current = salvage ? this.files.best() : this.files.current()
    this.generation = current.generation
    this.toldFlushed = current.flushed
    if (this.generation === 0) {
      this.generation = 1
      this.fd = this.files.create(1)
      fs.fsyncSync(this.fd)
      this.files.makeCurrent({ generation: 1, flushed: HEADER })
      this.synced = HEADER
      return
    }
    this.fd = fs.openSync(this.path, salvage ? 'r' : 'r+')
    try {
      this.load()
    } catch (error) {
      fs.closeSync(this.fd)
      throw error
    }
    if (!salvage) this.files.removeAllBut(this.generation)
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

  /** Reads the log, and cuts off what a crash left of its last batch. */
  private load(): void {
    const { path, salvage } = this
    const size = this.fs.fstatSync(this.fd).size
    const file = { path, size, read: (at: number, length: number) => this.read(at, length) }
    const found = readLog(
      file,
      {
        put: (partition, key, at, length) => this.set(partition, key, { at, length }),
        delete: (partition, key) => this.remove(partition, key),
        deleteRange: (partition, from, to) => this.removeRange(partition, from, to),
        reset: () => {
          this.maps = PARTITIONS.map(() => new SortedMap<Place>())
          this.live = 0
        },
      },
      salvage,
    )
    this.end = found.end
    this.number = found.number
    this.operationsEnd = found.operationsEnd
    this.saidSynced = found.synced
    this.lost = found.lost.map(({ from, to }) => ({
      object: `file ${path}`,
      detail: `bytes ${from} to ${to} cannot be read: the changes in them are lost`,
    }))
    if (found.end < this.toldFlushed) {
      const told = `${this.toldFlushed} bytes of it were flushed`
      if (!salvage) throw damaged(path, `it cannot be read beyond byte ${found.end}, but ${told}`)
      this.lost.push({ object: `file ${path}`, detail: `it ends at byte ${found.end}, but ${told}: the rest is lost` })
    }
    if (salvage) return
    if (found.end < size) this.fs.ftruncateSync(this.fd, found.end)
    // What was there before the crash is now promised to whoever reads it.
    this.fs.fsyncSync(this.fd)
    this.synced = found.end
    if (found.version < VERSION) this.rewrite()
    else this.saySynced()
  }

  /** Says in `CURRENT` that the log was flushed: a log that is cut off later is then no log with a torn end. */
  private tellFlushed(): void {
    const current = { generation: this.generation, flushed: this.synced }
    if (this.toldFlushed >= this.operationsEnd) return
    try {
      this.files.tellFlushed(current)
      this.toldFlushed = current.flushed
    } catch {
      // A full disk is no error here: what was told before is true as well.
    }
  }

  /** Says in the log that it was flushed, unless a batch has said so since the last operation. A full disk is no error. */
  private saySynced(): void {
    if (this.saidSynced >= this.operationsEnd) return
    const batch = new BatchWriter().seal(this.number + 1, this.synced)
    try {
      this.cut()
      this.dirty = true
      writeAll(this.fs, this.fd, batch, this.end)
    } catch {
      return
    }
    this.dirty = false
    this.number += 1
    this.end += batch.length
    this.saidSynced = this.synced
    this.tellFlushed()
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

  damage(): StorageDamage[] {
    return this.lost
  }

  commit(operations: readonly StorageOperation[], { durability }: { durability: Durability }): Promise<Durability> {
    if (this.salvage)
      throw new KalamError({ code: 'STORAGE_ERROR', message: 'the files were opened to be rescued only' })
    return this.next(() => this.write(operations, durability))
  }

  private next<T>(run: () => Promise<T>): Promise<T> {
    this.checkOpen()
    const done = this.queue.then(run)
    this.queue = done.catch(() => {})
    return done
  }

  private async write(
    operations: readonly StorageOperation[],
    durability: Durability,
    again = false,
  ): Promise<Durability> {
    const writer = new BatchWriter()
    const changes: (() => void)[] = []
    const start = this.end
    for (const operation of operations) {
      const partition = PARTITIONS.indexOf(operation.partition)
      if (operation.type === 'put') {
        const { key, value } = operation
        const at = writer.put(partition, key, value)
        changes.push(() => this.set(partition, text(key), { at: start + writer.valuesAt + at, length: value.length }))
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
        if (again || !isFull(error) || !this.makeRoom()) throw error
        return this.write(operations, durability, true)
      }
      this.dirty = false
      this.number += 1
      this.end = start + batch.length
      this.operationsEnd = this.end
      this.saidSynced = this.synced
      for (const change of changes) change()
    } else if (strict) {
      await this.flush()
    }
    if (strict) this.synced = this.end
    if (!this.closed && this.end > REWRITE_BYTES && this.end > 2.5 * this.live) void this.compact().catch(() => {})
    return strict ? 'strict' : 'relaxed'
  }

  /** Rewrites the log of a full disk if that gives room, and tells whether it did. */
  private makeRoom(): boolean {
    if (this.end < 1.25 * this.live) return false
    try {
      this.rewrite()
      return true
    } catch {
      return false
    }
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
    let synced = HEADER
    try {
      let writer = new BatchWriter()
      let places: [Place, number][] = []
      const seal = (): void => {
        number += 1
        writeAll(fs, fd, writer.seal(number, synced), end)
        for (const [place, at] of places) moved.push([place, end + writer.valuesAt + at])
        end += writer.size
        writer = new BatchWriter()
        places = []
      }
      this.maps.forEach((map, partition) => {
        for (const [key, place] of map.range(undefined, undefined)) {
          places.push([place, writer.put(partition, bytesOf(key), this.value(place))])
          if (writer.size > REWRITE_BATCH) seal()
        }
      })
      if (places.length > 0) seal()
      // It is read only if it was flushed, so it can say so before.
      synced = end
      seal()
      fs.fsyncSync(fd)
      files.makeCurrent({ generation: next, flushed: end })
      fs.closeSync(this.fd)
      fs.rmSync(this.path, { force: true })
    } catch (error) {
      if (files.current().generation === this.generation) {
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
    this.operationsEnd = synced
    this.saidSynced = synced
    this.toldFlushed = end
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
      if (!this.salvage) {
        if (this.synced < this.end) await this.flush()
        this.synced = this.end
        this.saySynced()
      }
    } finally {
      this.fs.closeSync(this.fd)
      this.unlock()
    }
  }
}
