// The lock that keeps two processes off one folder.
//
// Invariant: the file is made by whoever holds the lock and by nobody else (`wx`), and it names its maker. It is taken
// over only when its maker is surely gone: no such process, another one with its number, or a boot since. Of several
// that take over at once one wins.

import { KalamError } from '../errors.js'
import { builtin, type NodeFs, nodeProcess } from './builtin.js'

/** How long to wait for a holder that is just letting go, in milliseconds. */
const GRACE_MS = 1500

interface Owner {
  pid: number
  /** When the process started, as the system counts it; empty where it does not tell. */
  started: string
  /** When the lock was taken, in milliseconds since the epoch. */
  at: number
}

/** Folders that this thread holds. */
const held = new Set<string>()

/** When a process started, on systems that have /proc. */
function startOf(fs: NodeFs, pid: number): string {
  try {
    const stat = new TextDecoder().decode(fs.readFileSync(`/proc/${pid}/stat`))
    // The name stands in parentheses and may hold anything; the 20th field after it is the start.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
  } catch {
    return ''
  }
}

function isGone(fs: NodeFs, path: string, owner: Owner): boolean {
  const { pid, started, at } = owner
  const own = nodeProcess
  if (own === undefined) return false
  if (pid === own.pid) {
    // A process of the same number before this one, or another thread of this one.
    return !held.has(path) && (started !== '' ? started !== startOf(fs, pid) : at < Date.now() - own.uptime() * 1000)
  }
  try {
    own.kill(pid, 0)
  } catch (error) {
    // EPERM: it lives and belongs to someone else.
    return (error as { code?: string }).code === 'ESRCH'
  }
  const now = startOf(fs, pid)
  if (started !== '' && now !== '') return started !== now
  const booted = Date.now() - builtin<{ uptime(): number }>('node:os').uptime() * 1000
  return at < booted - 60_000
}

function ownerOf(bytes: Uint8Array): Owner | undefined {
  try {
    const { pid, started, at } = JSON.parse(new TextDecoder().decode(bytes)) as Owner
    return typeof pid === 'number' && typeof at === 'number' ? { pid, started: String(started ?? ''), at } : undefined
  } catch {
    // Made a moment ago and not written yet, or cut off by a crash.
    return undefined
  }
}

/** Takes the lock of a folder or throws `DATABASE_LOCKED` after a short grace. Gives the function that lets it go. */
export async function lockFolder(folder: string, graceMs: number = GRACE_MS): Promise<() => void> {
  const fs = builtin<NodeFs>('node:fs')
  const path = `${folder}/LOCK`
  const until = Date.now() + graceMs
  let unreadableSince: number | undefined
  for (;;) {
    if (!held.has(path) && take(fs, path)) {
      held.add(path)
      return () => {
        held.delete(path)
        fs.rmSync(path, { force: true })
      }
    }
    let bytes: Uint8Array | undefined
    try {
      bytes = fs.readFileSync(path)
    } catch {
      // It was let go meanwhile.
    }
    const owner = bytes && ownerOf(bytes)
    unreadableSince = bytes !== undefined && owner === undefined ? (unreadableSince ?? Date.now()) : undefined
    const abandoned = unreadableSince !== undefined && Date.now() - unreadableSince > 1000
    if (bytes !== undefined && (abandoned || (owner !== undefined && isGone(fs, path, owner)))) {
      removeStale(fs, path, bytes)
      continue
    }
    if (Date.now() >= until && !(bytes !== undefined && owner === undefined)) {
      const holder = owner === undefined ? 'another connection' : `process ${owner.pid}`
      throw new KalamError({
        code: 'DATABASE_LOCKED',
        message: `the database in '${folder}' is open in ${holder}`,
        hint: 'Close the other connection, or share one.',
      })
    }
    await new Promise(resolve => setTimeout(resolve, 25))
  }
}

function take(fs: NodeFs, path: string): boolean {
  let fd: number
  try {
    fd = fs.openSync(path, 'wx')
  } catch (error) {
    if ((error as { code?: string }).code === 'EEXIST') return false
    throw error
  }
  const pid = nodeProcess?.pid ?? 0
  const owner: Owner = { pid, started: startOf(fs, pid), at: Date.now() }
  const bytes = new TextEncoder().encode(JSON.stringify(owner))
  try {
    fs.writeSync(fd, bytes, 0, bytes.length, 0)
  } finally {
    fs.closeSync(fd)
  }
  return true
}

/** Takes the file of someone who is gone out of the way, unless another one was quicker and has the lock by now. */
function removeStale(fs: NodeFs, path: string, stale: Uint8Array): void {
  const aside = `${path}.${nodeProcess?.pid}.${Math.random().toString(36).slice(2)}`
  try {
    fs.renameSync(path, aside)
  } catch {
    return
  }
  const moved = fs.readFileSync(aside)
  if (moved.length !== stale.length || moved.some((byte, i) => byte !== stale[i])) {
    try {
      fs.linkSync(aside, path)
    } catch {
      // A third one holds it now, or links are not known here: the next attempt of its owner sees that it is gone.
    }
  }
  fs.rmSync(aside, { force: true })
}
