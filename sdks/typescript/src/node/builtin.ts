// The parts of Node's file system that are used, found at run time: nothing here is a static import, so that bundlers
// for browsers follow nothing. Node from 20.16, Deno and Bun have `process.getBuiltinModule`.

import { KalamError } from '../errors.js'

/** The part of `node:fs` that is used. Synchronous calls are those that end in the page cache. */
export interface NodeFs {
  openSync(path: string, flags: string): number
  closeSync(fd: number): void
  readSync(fd: number, buffer: Uint8Array, offset: number, length: number, position: number): number
  writeSync(fd: number, buffer: Uint8Array, offset: number, length: number, position: number): number
  ftruncateSync(fd: number, length: number): void
  fsyncSync(fd: number): void
  fdatasync(fd: number, done: (error: Error | null) => void): void
  fstatSync(fd: number): { size: number }
  mkdirSync(path: string, options: { recursive: boolean }): unknown
  readdirSync(path: string): string[]
  existsSync(path: string): boolean
  readFileSync(path: string): Uint8Array
  renameSync(from: string, to: string): void
  linkSync(existing: string, path: string): void
  rmSync(path: string, options?: { recursive?: boolean; force?: boolean }): void
  statfsSync(path: string): { bsize: number; bavail: number }
}

interface NodeProcess {
  pid: number
  platform: string
  versions?: { node?: string }
  uptime(): number
  kill(pid: number, signal: 0): boolean
  getBuiltinModule?(id: string): unknown
}

/** Node's `process`, where there is one. */
export const nodeProcess = (globalThis as { process?: NodeProcess }).process

/** Whether there are files here. */
export function hasFiles(): boolean {
  return nodeProcess?.versions?.node !== undefined && nodeProcess.getBuiltinModule?.('node:fs') !== undefined
}

/** A module of Node. */
export function builtin<T>(id: string): T {
  const found = nodeProcess?.getBuiltinModule?.(id)
  if (found === undefined) {
    throw new KalamError({
      code: 'FEATURE_NOT_SUPPORTED',
      message: 'there are no files here',
      hint: 'File storage needs Node from 20.16, Deno or Bun.',
    })
  }
  return found as T
}

/** Syncs a folder, so that names made or changed in it are there after a loss of power. */
export function syncFolder(fs: NodeFs, path: string): void {
  // Windows opens no folders, and its file systems keep names by themselves.
  if (nodeProcess?.platform === 'win32') return
  const fd = fs.openSync(path, 'r')
  try {
    fs.fsyncSync(fd)
  } finally {
    fs.closeSync(fd)
  }
}

const TABLE = /* @__PURE__ */ (() => {
  const table = new Uint32Array(256)
  for (let n = 0; n < 256; n++) {
    let c = n
    for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1
    table[n] = c >>> 0
  }
  return table
})()

/** CRC-32 of bytes, by zlib where it has it. */
export function crc32(bytes: Uint8Array): number {
  const zlib = nodeProcess?.getBuiltinModule?.('node:zlib') as { crc32?(bytes: Uint8Array): number } | undefined
  if (zlib?.crc32 !== undefined) return zlib.crc32(bytes)
  let crc = 0xffffffff
  for (let i = 0; i < bytes.length; i++) {
    crc = (TABLE[(crc ^ (bytes[i] as number)) & 0xff] as number) ^ (crc >>> 8)
  }
  return (crc ^ 0xffffffff) >>> 0
}
