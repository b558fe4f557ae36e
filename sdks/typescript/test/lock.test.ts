// The database lock, against a lock manager that behaves as the Web Locks specification says.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { KalamError } from '../src/errors.js'
import { type Locks, lockDatabase } from '../src/lock.js'

/** Exclusive locks only, first come first served. */
class TestLocks implements Locks {
  private readonly tails = new Map<string, Promise<void>>()
  readonly names: string[] = []

  request(name: string, options: { signal: AbortSignal }, callback: () => Promise<void>): Promise<unknown> {
    this.names.push(name)
    const previous = this.tails.get(name) ?? Promise.resolve()
    let free = (): void => {}
    const mine = new Promise<void>(resolve => {
      free = resolve
    })
    this.tails.set(
      name,
      previous.then(() => mine),
    )
    const aborted = new Promise<never>((_, reject) => {
      options.signal.addEventListener('abort', () => reject(options.signal.reason))
    })
    aborted.catch(() => {})
    return (async () => {
      try {
        await Promise.race([previous, aborted])
      } catch (error) {
        free()
        throw error
      }
      try {
        await callback()
      } finally {
        free()
      }
    })()
  }
}

describe('the database lock', () => {
  it('is exclusive per name, and free after its release', async () => {
    const locks = new TestLocks()
    const held = await lockDatabase('shop', locks, 5)
    assert.deepEqual(locks.names, ['kalamdb:shop'])
    const other = await lockDatabase('other', locks, 5)
    await assert.rejects(lockDatabase('shop', locks, 5), (error: unknown) => {
      assert.ok(error instanceof KalamError)
      assert.equal(error.code, 'DATABASE_LOCKED')
      assert.equal(error.sqlstate, '55006')
      assert.match(error.message, /'shop'/)
      assert.ok(error.hint)
      return true
    })
    await held.release()
    await (await lockDatabase('shop', locks, 5)).release()
    await other.release()
  })

  it('waits for a holder that lets go within the grace', async () => {
    const locks = new TestLocks()
    const held = await lockDatabase('shop', locks, 5)
    const waiting = lockDatabase('shop', locks, 60_000)
    await held.release()
    await (await waiting).release()
  })

  it('keeps the lock past the grace', async () => {
    const locks = new TestLocks()
    const held = await lockDatabase('shop', locks, 1)
    await new Promise(resolve => setTimeout(resolve, 20))
    await assert.rejects(lockDatabase('shop', locks, 1), { code: 'DATABASE_LOCKED' })
    await held.release()
  })

  it('refuses to run without a lock manager', async () => {
    const { navigator } = globalThis
    if (navigator?.locks === undefined) await assert.rejects(lockDatabase('shop'), { code: 'FEATURE_NOT_SUPPORTED' })
  })
})
