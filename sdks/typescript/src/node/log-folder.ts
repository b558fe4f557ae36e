// The files of a storage: logs, and `CURRENT`, which names the one that counts.
//
//   CURRENT      the name of the log, how many bytes of it were flushed when that was written, and the CRC-32 of both in
//                hexadecimal; the length is new in version 2 of the log
//   data-N.log   a log (see batch.ts)
//   DELETED      what CURRENT was, while everything is being deleted
//
// Invariant: `CURRENT` is replaced by renaming, after the log that it names was flushed and the folder knows both, so it
// names a whole log at every moment.

import { damaged, HEADER, logHeader } from './batch.js'
import { type NodeFs, syncFolder } from './builtin.js'
import { crc32 } from './crc32.js'

/** What `CURRENT` is called while everything is being deleted. */
const DELETED = 'DELETED'
const LOG = /^data-\d+\.log$/
const utf8 = new TextEncoder()

/** Writes all of the bytes at a place of a file. */
export function writeAll(fs: NodeFs, fd: number, bytes: Uint8Array, at: number): void {
  for (let done = 0; done < bytes.length; ) {
    done += fs.writeSync(fd, bytes, done, bytes.length - done, at + done)
  }
}

/** What `CURRENT` says. */
export interface Current {
  /** Number of the log that counts. */
  generation: number
  /** So many bytes of it were flushed, at least. */
  flushed: number
}

/** The folder of a storage; see the module's comment. */
export class LogFolder {
  constructor(
    private readonly fs: NodeFs,
    private readonly folder: string,
  ) {}

  /** The path of a log. */
  log(generation: number): string {
    return `${this.folder}/data-${generation}.log`
  }

  /** The logs that hold something, oldest first. */
  private logs(): number[] {
    const { fs, folder } = this
    if (!fs.existsSync(folder)) return []
    const found = fs.readdirSync(folder).filter(name => LOG.test(name) && sizeOf(fs, `${folder}/${name}`) > HEADER)
    return found.map(name => Number(/\d+/.exec(name)?.[0])).sort((a, b) => a - b)
  }

  /** Whether there is a storage, sound or not. */
  exists(): boolean {
    return this.fs.existsSync(`${this.folder}/CURRENT`) || (!this.isDeleted() && this.logs().length > 0)
  }

  /** A deletion has begun and did not come to its end. */
  private isDeleted(): boolean {
    return this.fs.existsSync(`${this.folder}/${DELETED}`)
  }

  /** The log that counts; number 0 if there is none. */
  current(): Current {
    const path = `${this.folder}/CURRENT`
    if (!this.fs.existsSync(path)) {
      if (this.isDeleted()) this.clear()
      const left = this.logs().at(-1)
      if (left === undefined) return { generation: 0, flushed: 0 }
      throw damaged(path, `it is gone, but data-${left}.log is there`)
    }
    const content = new TextDecoder().decode(this.fs.readFileSync(path))
    const found = /^(data-(\d+)\.log(?: (\d+))?) ([0-9a-f]+)\n$/.exec(content)
    const generation = Number(found?.[2])
    if (found === null || crc32(utf8.encode(found[1] as string)).toString(16) !== found[4]) {
      throw damaged(path, `it holds ${JSON.stringify(content.slice(0, 60))}`)
    }
    if (!this.fs.existsSync(this.log(generation))) {
      throw damaged(path, `it names data-${generation}.log, which is gone`)
    }
    return { generation, flushed: Number(found[3] ?? 0) }
  }

  /** The log that counts, or the newest one if nothing says which that is; fails if there is none. */
  best(): Current {
    try {
      return this.current()
    } catch (error) {
      const left = this.logs().at(-1)
      if (left !== undefined) return { generation: left, flushed: 0 }
      throw error
    }
  }

  /** Makes a log that was flushed the one that counts. */
  makeCurrent({ generation, flushed }: Current): void {
    this.prepare({ generation, flushed })
    const { fs, folder } = this
    // The log's own name first: CURRENT must never name what is not there.
    syncFolder(fs, folder)
    fs.renameSync(`${folder}/CURRENT.tmp`, `${folder}/CURRENT`)
    syncFolder(fs, folder)
  }

  /** Says that more of the log that counts was flushed. If that is lost, what was said before is as true. */
  tellFlushed(current: Current): void {
    this.prepare(current)
    this.fs.renameSync(`${this.folder}/CURRENT.tmp`, `${this.folder}/CURRENT`)
  }

  private prepare({ generation, flushed }: Current): void {
    const { fs, folder } = this
    const said = `data-${generation}.log ${flushed}`
    const bytes = utf8.encode(`${said} ${crc32(utf8.encode(said)).toString(16)}\n`)
    const fd = fs.openSync(`${folder}/CURRENT.tmp`, 'w')
    try {
      writeAll(fs, fd, bytes, 0)
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
  }

  /** Makes a log with nothing in it, and opens it. */
  create(generation: number): number {
    const fd = this.fs.openSync(this.log(generation), 'w+')
    try {
      writeAll(this.fs, fd, logHeader(), 0)
    } catch (error) {
      this.fs.closeSync(fd)
      throw error
    }
    return fd
  }

  /** Removes what a rewrite left that did not come to its end. */
  removeAllBut(generation: number): void {
    const { fs, folder } = this
    for (const name of fs.readdirSync(folder)) {
      const stale = LOG.test(name) && `${folder}/${name}` !== this.log(generation)
      if (stale || name === 'CURRENT.tmp') fs.rmSync(`${folder}/${name}`, { force: true })
    }
  }

  /** Removes all files of the storage, and nothing else. One that was interrupted is finished by the next opening. */
  clear(): void {
    const { fs, folder } = this
    if (fs.existsSync(`${folder}/CURRENT`)) fs.renameSync(`${folder}/CURRENT`, `${folder}/${DELETED}`)
    for (const name of fs.readdirSync(folder)) {
      if (LOG.test(name) || name.endsWith('.tmp')) fs.rmSync(`${folder}/${name}`)
    }
    fs.rmSync(`${folder}/${DELETED}`, { force: true })
  }
}

function sizeOf(fs: NodeFs, path: string): number {
  const fd = fs.openSync(path, 'r')
  try {
    return fs.fstatSync(fd).size
  } finally {
    fs.closeSync(fd)
  }
}
