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
