// Reading a log from its beginning: what its batches say, where they end, and whether what is behind that is a torn end
// or damage.
//
// Invariants:
// - Operations are told in the order in which they were committed, and only of batches whose checksum is right.
// - Only what was not flushed is ever taken for torn: a batch that cannot be read is damage as soon as a later one says
//   that the log was flushed beyond it. Values are read, and compared with their checksums, where nothing says so;
//   elsewhere they are left to whoever reads them, as every record of the engine and every part of a segment has a
//   checksum. So one damaged value is the affair of one record and not of the database.
// - A salvage goes on behind what it cannot read and tells what that was.

import { KalamError } from '../errors.js'
import {
  type BatchHeader,
  batchHeader,
  damaged,
  HEADER,
  logVersion,
  MOST_HEADER,
  readOperations,
  VERSION,
} from './batch.js'
import { crc32 } from './crc32.js'

/** Bytes that are read at once, where less is asked for. */
const WINDOW = 16 << 10
/** Bytes that are looked through at once for a batch. */
const SEARCH = 4 << 20

/** A file that is read. */
export interface LogFile {
  path: string
  size: number
  /** The bytes from a place on, fewer at the end. */
  read(at: number, length: number): Uint8Array
}

/** Told what a log says; places are those in the log. */
export interface LogOperations {
  put(partition: number, key: string, at: number, length: number): void
  delete(partition: number, key: string): void
  deleteRange(partition: number, from: string | undefined, to: string | undefined): void
  /** Everything that was told is void: the log is read again, as its end turned out to be torn. */
  reset(): void
}

/** A part of a log that cannot be read. */
export interface LostPart {
  from: number
  to: number
}

/** What was found in a log. */
export interface LogEnd {
  version: number
  /** Where the last batch ends, and the next one goes. */
  end: number
  /** Number of the last batch. */
  number: number
  /** Where the last batch with operations ends. */
  operationsEnd: number
  /** So much was flushed, as far as the batches tell. */
  synced: number
  /** What a salvage went past. */
  lost: LostPart[]
}

/** A value that nothing says was flushed. */
interface Unflushed {
  batch: number
  at: number
  length: number
  crc: number
}

/** Reads a log; fails if it is damaged, unless `salvage` says to go on. */
export function readLog(file: LogFile, to: LogOperations, salvage = false): LogEnd {
  const lost: LostPart[] = []
  let version = VERSION
  try {
    version = logVersion(file.read(0, HEADER), file.path)
  } catch (error) {
    if (!salvage || KalamError.from(error).code !== 'DATA_CORRUPTED') throw error
    lost.push({ from: 0, to: HEADER })
  }
  let { size } = file
  for (;;) {
    const pass = new Pass(file, size, version, to, salvage)
    const torn = pass.run()
    if (torn === undefined) {
      pass.found.lost.unshift(...lost)
      return pass.found
    }
    size = torn
    to.reset()
  }
}

/** One way through a log. */
class Pass {
  readonly found: LogEnd
  private window: Uint8Array = new Uint8Array(0)
  private windowAt = 0
  private unflushed: Unflushed[] = []

  constructor(
    private readonly file: LogFile,
    private readonly size: number,
    version: number,
    private readonly to: LogOperations,
    private readonly salvage: boolean,
  ) {
    this.found = { version, end: HEADER, operationsEnd: HEADER, number: 0, synced: HEADER, lost: [] }
  }

  /** Gives the place of the first batch with a torn value, if there is one. */
  run(): number | undefined {
    const { found } = this
    let at = HEADER
    while (at < this.size) {
      let header = this.batch(at)
      if (header === undefined || (header.number !== found.number + 1 && !this.salvage)) {
        const next = this.behind(at)
        if (next === undefined) break
        found.lost.push({ from: at, to: next.at })
        at = next.at
        header = next.header
      }
      this.replay(header, at)
      found.number = header.number
      if (header.synced > found.synced) {
        found.synced = header.synced
        this.unflushed = this.unflushed.filter(({ batch }) => batch >= header.synced)
      }
      at += header.length
      found.end = at
      if (!header.empty) found.operationsEnd = at
    }
    if (this.salvage) return undefined
    for (const { batch, at, length, crc } of this.unflushed) {
      if (crc32(this.file.read(at, length)) !== crc) return batch
    }
    return undefined
  }

  /** Bytes of the log, fewer at its end. */
  private bytes(at: number, length: number): Uint8Array {
    const missing = at < this.windowAt || at + length > this.windowAt + this.window.length
    if (missing) {
      this.window = this.file.read(at, Math.min(Math.max(length, WINDOW), this.size - at))
      this.windowAt = at
    }
    return this.window.subarray(at - this.windowAt, at - this.windowAt + length)
  }

  /** The header of a batch that begins at a place, is all there, and has its checksum. */
  private batch(at: number): BatchHeader | undefined {
    const header = batchHeader(this.bytes(at, MOST_HEADER), this.found.version)
    if (header === undefined || at + header.length > this.size) return undefined
    return crc32(this.bytes(at, header.operations).subarray(8)) === header.crc ? header : undefined
  }

  /**
   * The next batch behind one that cannot be read, for a salvage. Otherwise nothing, if that is where the log ends, or
   * an error, if a later batch says that the log was flushed beyond it: then it is damage and not a torn end.
   */
  private behind(at: number): { at: number; header: BatchHeader } | undefined {
    let next = this.search(at + 1)
    while (next !== undefined) {
      const { header } = next
      if (header.number > this.found.number) {
        if (this.salvage) return next
        if (header.synced > at) {
          const what = `the batch at byte ${at} does not have its checksum, and the file goes on after it`
          throw damaged(this.file.path, what)
        }
      }
      next = this.search(next.at + header.length)
    }
    return undefined
  }

  /** The first batch at a place or behind it. */
  private search(from: number): { at: number; header: BatchHeader } | undefined {
    for (let start = from; start < this.size; start += SEARCH) {
      const piece = this.file.read(start, Math.min(SEARCH + 3, this.size - start))
      for (let i = piece.indexOf(0x4b); i !== -1 && i < SEARCH; i = piece.indexOf(0x4b, i + 1)) {
        if (piece[i + 1] !== 0x42 || piece[i + 2] !== 0x41 || piece[i + 3] !== 0x54) continue
        const header = this.batch(start + i)
        if (header !== undefined) return { at: start + i, header }
      }
    }
    return undefined
  }

  private replay(header: BatchHeader, batch: number): void {
    const { to, found } = this
    const unknown = readOperations(this.bytes(batch, header.operations), found.version, {
      put: (partition, key, at, length, crc) => {
        to.put(partition, key, batch + at, length)
        if (crc !== undefined) this.unflushed.push({ batch, at: batch + at, length, crc })
      },
      delete: (partition, key) => to.delete(partition, key),
      deleteRange: (partition, from, end) => to.deleteRange(partition, from, end),
    })
    if (unknown !== undefined) {
      throw damaged(this.file.path, `the batch at byte ${batch} holds an operation of type ${unknown}`)
    }
  }
}
