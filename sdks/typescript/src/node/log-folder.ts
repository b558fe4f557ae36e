// The files of a storage: logs, and `CURRENT`, which names the one that counts.
//
//   CURRENT      the name of the log, with the CRC-32 of that name in hexadecimal
//   data-N.log   a log (see batch.ts)
//
// Invariant: `CURRENT` is replaced by renaming, after the log that it names was flushed and the folder knows both, so it
// names a whole log at every moment.

import { damaged, logHeader } from './batch.js'
import { type NodeFs, syncFolder } from './builtin.js'
import { crc32 } from './crc32.js'

const LOG = /^data-\d+\.log$/
const utf8 = new TextEncoder()

/** Writes all of the bytes at a place of a file. */
export function writeAll(fs: NodeFs, fd: number, bytes: Uint8Array, at: number): void {
  for (let done = 0; done < bytes.length; ) {
    done += fs.writeSync(fd, bytes, done, bytes.length - done, at + done)
  }
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

  /** The number of the log that counts; 0 if there is none. */
  current(): number {
    const path = `${this.folder}/CURRENT`
    if (!this.fs.existsSync(path)) return 0
    const content = new TextDecoder().decode(this.fs.readFileSync(path))
    const found = /^data-(\d+)\.log ([0-9a-f]+)\n$/.exec(content)
    const generation = Number(found?.[1])
    if (found === null || crc32(utf8.encode(`data-${generation}.log`)).toString(16) !== found[2]) {
      throw damaged(path, `it holds ${JSON.stringify(content.slice(0, 60))}`)
    }
    if (!this.fs.existsSync(this.log(generation))) {
      throw damaged(path, `it names data-${generation}.log, which is gone`)
    }
    return generation
  }

  /** Makes a log that was flushed the one that counts. */
  makeCurrent(generation: number): void {
    const { fs, folder } = this
    const name = `data-${generation}.log`
    const bytes = utf8.encode(`${name} ${crc32(utf8.encode(name)).toString(16)}\n`)
    const fd = fs.openSync(`${folder}/CURRENT.tmp`, 'w')
    try {
      writeAll(fs, fd, bytes, 0)
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
    // The log's own name first: CURRENT must never name what is not there.
    syncFolder(fs, folder)
    fs.renameSync(`${folder}/CURRENT.tmp`, `${folder}/CURRENT`)
    syncFolder(fs, folder)
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

  /** Removes all files of the storage, and nothing else. */
  clear(): void {
    const { fs, folder } = this
    for (const name of fs.readdirSync(folder)) {
      if (name === 'CURRENT' || LOG.test(name) || name.endsWith('.tmp')) fs.rmSync(`${folder}/${name}`)
    }
  }
}
