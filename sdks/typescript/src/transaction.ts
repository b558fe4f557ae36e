// Transactions: a function whose calls take effect together, run again when another writer was first.
//
// Invariant: the engine knows a transaction by an id that is never used again, so a call either runs within it or fails,
// whatever became of the engine meanwhile. After its function has ended, or was given up, nothing runs in it any more.

import type { EngineClient } from './engine/client.js'
import type { Link } from './engine/link.js'
import type { Op, Ops } from './engine/protocol.js'
import type { SessionOptions } from './engine/surface.js'
import { KalamError } from './errors.js'
import { Limit } from './limit.js'
import { invalid } from './options.js'
import type { CallOptions, Transaction, TransactionOptions } from './types.js'

/** How often a transaction that lost against another one is run again, unless the caller says. */
const DEFAULT_RETRIES = 3

/** The longest pause before the first retry, in milliseconds; it doubles with each one. */
const FIRST_PAUSE_MS = 8

/** What makes calls: the client of an engine, or a transaction on it. */
export type Caller = Pick<EngineClient, 'call' | 'close'>

/** Runs a function as a transaction. `within` makes what the function gets. */
export async function runTransaction<T>(
  client: Caller,
  session: SessionOptions,
  within: (client: Caller) => Transaction,
  body: (tx: Transaction) => Promise<T> | T,
  options: TransactionOptions,
): Promise<T> {
  const { retries = DEFAULT_RETRIES } = options
  if (typeof body !== 'function') throw invalid(`the transaction is ${typeof body}, expected a function`)
  if (!(typeof retries === 'number' && retries >= 0)) {
    throw invalid(`retries is ${String(retries)}, expected a number from 0 on`)
  }
  const limit = new Limit(options.signal, options.timeoutMs)
  try {
    for (let attempt = 0; ; attempt++) {
      limit.check()
      try {
        return await once(client, session, within, body, options, limit)
      } catch (error) {
        if (limit.error !== undefined || attempt >= retries || !lost(error)) throw error
      }
      // Two that met once should not meet again.
      const pause = Math.random() * FIRST_PAUSE_MS * 2 ** Math.min(attempt, 6)
      await limit.race(new Promise(resolve => setTimeout(resolve, pause)))
    }
  } finally {
    limit.dispose()
  }
}

async function once<T>(
  client: Caller,
  session: SessionOptions,
  within: (client: Caller) => Transaction,
  body: (tx: Transaction) => Promise<T> | T,
  { readOnly, durability }: TransactionOptions,
  limit: Limit,
): Promise<T> {
  const stop = new AbortController()
  limit.onStop(error => stop.abort(error))
  const options = { signal: stop.signal }
  const begin = { ...session, ...(readOnly !== undefined && { readOnly }) }
  const { transaction } = await client.call('begin', begin, options, { readOnly: true })
  const calls = new TransactionCalls(client, transaction, session, stop.signal)
  try {
    const result = await limit.race((async () => body(within(calls)))())
    await limit.race(calls.end())
    await client.call('commit', { transaction, ...(durability !== undefined && { durability }) }, options)
    return result
  } catch (error) {
    void calls.end()
    // What cannot be rolled back is gone already, with its engine or by its time limit.
    await client.call('rollback', { transaction }, undefined).catch(() => {})
    throw limit.error ?? calls.reason(error)
  }
}

/** Whether an error says, or was caused by one that says, that another writer was first. */
function lost(error: unknown): boolean {
  for (let depth = 0; error instanceof Error && depth < 8; depth++, error = error.cause) {
    if (error instanceof KalamError && error.code === 'SERIALIZATION_FAILURE') return true
  }
  return false
}

function foreignUser(): KalamError {
  return new KalamError({
    code: 'FEATURE_NOT_SUPPORTED',
    message: 'a transaction belongs to one user',
    hint: "EXECUTE AS USER 'name' (…) runs a statement for another one.",
  })
}

/** Refuses to open a session of another user within a transaction. */
export function checkMayOpenSession(client: Caller): void {
  if (client instanceof TransactionCalls) throw foreignUser()
}

/** Makes the calls of one transaction. */
class TransactionCalls implements Caller {
  private ended = false
  private failure: KalamError | undefined
  private readonly inFlight = new Set<Promise<unknown>>()

  constructor(
    private readonly client: Caller,
    private readonly transaction: string,
    private readonly session: SessionOptions,
    private readonly signal: AbortSignal,
  ) {}

  async call<K extends Op>(
    op: K,
    args: Ops[K]['args'] | ((link: Link) => Ops[K]['args']),
    options: CallOptions | undefined,
    settings: Parameters<Caller['call']>[3] = {},
  ): Promise<Ops[K]['result']> {
    if (this.ended) {
      throw new KalamError({
        code: 'NO_ACTIVE_TRANSACTION',
        message: 'the transaction has ended',
        hint: 'Await every call before the function of the transaction returns.',
      })
    }
    if (op === 'begin') {
      throw new KalamError({ code: 'ACTIVE_TRANSACTION', message: 'transactions do not nest' })
    }
    const { transaction } = this
    const belonging = (given: Ops[K]['args']): Ops[K]['args'] => {
      if ((given as SessionOptions).session !== this.session.session) {
        throw foreignUser()
      }
      return { ...given, transaction }
    }
    const full = typeof args === 'function' ? (link: Link) => belonging(args(link)) : belonging(args)
    const both = either(this.signal, options?.signal)
    const call = this.client.call(op, full, { ...options, signal: both.signal }, settings)
    this.inFlight.add(call)
    try {
      return await call
    } catch (error) {
      this.failure ??= KalamError.from(error)
      throw error
    } finally {
      both.dispose()
      this.inFlight.delete(call)
    }
  }

  close(): Promise<void> {
    return Promise.reject(
      new KalamError({ code: 'ACTIVE_TRANSACTION', message: 'a transaction ends with its function, not by close()' }),
    )
  }

  /** Lets no further call through and waits for those that nobody awaited. */
  async end(): Promise<void> {
    this.ended = true
    await Promise.allSettled([...this.inFlight])
  }

  /** Why the transaction failed: that it had failed before is no reason. */
  reason(error: unknown): unknown {
    const consequence = error instanceof KalamError && error.code === 'IN_FAILED_TRANSACTION'
    return consequence && this.failure !== undefined ? this.failure : error
  }
}

/** A signal that is given when one of two is. */
function either(own: AbortSignal, other: AbortSignal | undefined): { signal: AbortSignal; dispose(): void } {
  if (other === undefined) return { signal: own, dispose: () => {} }
  const joined = new AbortController()
  const onOwn = (): void => joined.abort(own.reason)
  const onOther = (): void => joined.abort(other.reason)
  if (own.aborted) onOwn()
  if (other.aborted) onOther()
  own.addEventListener('abort', onOwn, { once: true })
  other.addEventListener('abort', onOther, { once: true })
  return {
    signal: joined.signal,
    dispose: () => {
      own.removeEventListener('abort', onOwn)
      other.removeEventListener('abort', onOther)
    },
  }
}
