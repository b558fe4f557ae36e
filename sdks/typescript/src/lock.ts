// The lock that keeps two engines off one database.
//
// Invariant: whoever runs an engine on a stored database holds the exclusive Web Lock `kalamdb:<name>` for as long as
// the engine lives. The browser frees it when the holder closes, is terminated or crashes, so it never goes stale.

import { KalamError } from './errors.js'

/** How long to wait for a holder that is just letting go: the worker of a page that was reloaded a moment ago. */
const GRACE_MS = 1500

/** The part of `navigator.locks` that is used. */
export interface Locks {
  request(
    name: string,
    options: { mode: 'exclusive'; signal: AbortSignal },
    callback: () => Promise<void>,
  ): Promise<unknown>
}

/** A lock that is held. */
export interface HeldLock {
  /** Gives it free; resolves once others can have it. */
  release(): Promise<void>
}

/**
 * Takes the lock of a database or throws `DATABASE_LOCKED` after a short grace.
 *
 * @param name name of the database
 * @param locks the lock manager, `navigator.locks` by default
 * @param graceMs how long to wait, in milliseconds
 */
export async function lockDatabase(
  name: string,
  locks: Locks | undefined = globalThis.navigator?.locks as Locks | undefined,
  graceMs: number = GRACE_MS,
): Promise<HeldLock> {
  if (locks === undefined) {
    throw new KalamError({
      code: 'FEATURE_NOT_SUPPORTED',
      message: 'this page has no Web Locks, so nothing would keep two engines off one database',
      hint: "Serve the page over https or from localhost, or use storage: 'memory'.",
    })
  }
  const manager = locks
  const impatience = new AbortController()
  const timer = setTimeout(() => impatience.abort(), graceMs)
  return new Promise((resolve, reject) => {
    let held = false
    const done: Promise<unknown> = manager.request(
      `kalamdb:${name}`,
      { mode: 'exclusive', signal: impatience.signal },
      () => {
        held = true
        clearTimeout(timer)
        return new Promise<void>(letGo => {
          const release = async (): Promise<void> => {
            letGo()
            await done
          }
          resolve({ release })
        })
      },
    )
    done.catch((cause: unknown) => {
      clearTimeout(timer)
      if (held) return
      if (!impatience.signal.aborted) return reject(KalamError.from(cause))
      reject(
        new KalamError({
          code: 'DATABASE_LOCKED',
          message: `database '${name}' is open elsewhere: another tab, worker or connection owns its engine`,
          hint: 'Close the other connection (or its tab) and connect again; in one page, share one connection.',
        }),
      )
    })
  })
}
