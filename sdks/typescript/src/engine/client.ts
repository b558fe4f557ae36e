// The client of a database: keeps a link to a living engine and replaces it when it dies.
//
// Invariant: at most one engine is being started at a time, and a call never reaches an engine that has not opened the
// database. An in-memory database ends with its engine: it is never replaced by an empty one.

import { KalamError } from '../errors.js'
import { Limit } from '../limit.js'
import type { CallOptions } from '../types.js'
import type { ResolvedWasm } from '../wasm.js'
import { type CallSettings, Link } from './link.js'
import type { Op, Ops, Progress } from './protocol.js'
import type { EngineConfig } from './surface.js'
import type { Spawn } from './transport.js'

/**
 * How long a fresh engine waits for the lock of the one that it replaces, in milliseconds. Chromium lets a terminated
 * worker that is busy run on for two seconds.
 */
const REPLACE_GRACE_MS = 10_000

/** What a client is made of. */
export interface ClientConfig {
  spawn: Spawn
  config: EngineConfig
  wasm: ResolvedWasm | undefined
  /** Told about start-up, of the first engine only. */
  onProgress?: ((progress: Progress) => void) | undefined
  /** How long a stopped call may take to end, in milliseconds; for tests. */
  graceMs?: number
}

/** The client; see the module's comment. */
export class EngineClient {
  private current: Promise<Link> | undefined
  /** Nobody waits for the first link any more. */
  private givenUp = false
  /** The link that is being started. */
  private starting: Link | undefined
  /** The link that `current` gives, once it is there. */
  private live: Link | undefined
  private ended: KalamError | undefined
  private closing: Promise<void> | undefined
  private readonly inFlight = new Set<Promise<unknown>>()
  private wasm: ResolvedWasm | undefined
  /** It has had the database open, so the lock that is in the way is most likely that of its own last engine. */
  private opened = false

  constructor(private readonly settings: ClientConfig) {
    this.wasm = settings.wasm
  }

  /** Opens the database for the first time. */
  async open(signal?: AbortSignal): Promise<void> {
    const limit = new Limit(signal)
    try {
      limit.check()
      await limit.race(this.link(this.settings.onProgress))
    } catch (error) {
      // Nobody will hold this client: whatever was started must not live on. A worker ends with its lock at once, also
      // one that waits for a download without end; in this thread nothing ends before it has come to its end.
      const closed = closedError(this.settings.config.name)
      this.ended = closed
      this.givenUp = true
      if (this.starting?.remote) this.starting.terminate(closed)
      this.current?.then(link => link.terminate(closed)).catch(() => {})
      throw error
    } finally {
      limit.dispose()
    }
  }

  /** Makes a call within the limits of its options. */
  call<K extends Op>(
    op: K,
    args: Ops[K]['args'] | ((link: Link) => Ops[K]['args']),
    options: CallOptions | undefined,
    settings: Omit<CallSettings, 'limit'> = {},
  ): Promise<Ops[K]['result']> {
    if (this.ended !== undefined) return Promise.reject(revived(this.ended))
    const { living } = this
    const limited = options?.signal !== undefined || options?.timeoutMs !== undefined
    // The link counts what is in flight on it.
    if (living !== undefined && !limited && typeof args !== 'function') {
      const call = living.call(op, args, settings)
      return settings.untraced === true ? call : traced(call)
    }
    const call = this.callWithin(op, args, options, settings)
    this.inFlight.add(call)
    const over = (): void => void this.inFlight.delete(call)
    call.then(over, over)
    return settings.untraced === true ? call : traced(call)
  }

  private async callWithin<K extends Op>(
    op: K,
    args: Ops[K]['args'] | ((link: Link) => Ops[K]['args']),
    options: CallOptions | undefined,
    settings: Omit<CallSettings, 'limit'>,
  ): Promise<Ops[K]['result']> {
    const limit = new Limit(options?.signal, options?.timeoutMs)
    try {
      limit.check()
      let link = this.living ?? (await limit.race(this.link()))
      if (link.dead !== undefined) {
        // It died between its start and this call, which was never sent.
        if (this.ended !== undefined) throw revived(this.ended)
        link = await limit.race(this.link())
      }
      const ready = typeof args === 'function' ? args(link) : args
      return await link.call(op, ready, { ...settings, limit })
    } finally {
      limit.dispose()
    }
  }

  /** The link to an engine that is there, without waiting. */
  private get living(): Link | undefined {
    return this.live?.dead === undefined ? this.live : undefined
  }

  /** Waits for what is in flight, then closes the engine. */
  close(): Promise<void> {
    this.closing ??= this.shutDown()
    return this.closing
  }

  private async shutDown(): Promise<void> {
    const closed = closedError(this.settings.config.name)
    const died = this.ended !== undefined
    this.ended = closed
    while (this.inFlight.size > 0) await Promise.allSettled([...this.inFlight])
    if (died) return
    const link = await this.current?.catch(() => undefined)
    this.current = undefined
    if (link === undefined || link.dead !== undefined) return
    await link.settled()
    if (link.dead !== undefined) return
    try {
      await link.call('close', {})
    } finally {
      link.terminate(closed)
    }
  }

  private link(onProgress?: (progress: Progress) => void): Promise<Link> {
    if (this.current === undefined) {
      const starting = this.start(onProgress)
      this.current = starting
      starting.catch(() => {
        if (this.current === starting) this.current = undefined
      })
    }
    return this.current
  }

  private async start(onProgress: ((progress: Progress) => void) | undefined): Promise<Link> {
    const { spawn, config, graceMs } = this.settings
    const link: Link = await Link.start(spawn, reason => this.lost(reason), graceMs)
    try {
      // Given up meanwhile.
      if (this.givenUp) throw closedError(config.name)
      this.starting = link
      const lockGraceMs = this.opened ? { lockGraceMs: REPLACE_GRACE_MS } : {}
      // A backup is restored once: an engine that replaces another finds the database.
      const { restore: _, ...opened } = config
      const args = { config: this.opened ? opened : config, wasm: this.wasm, ...lockGraceMs }
      const { module } = await link.call('open', args, { onProgress, readOnly: true })
      this.wasm = module
      this.opened = true
      this.starting = undefined
      this.live = link
      onProgress?.({ phase: 'ready', bytes: 0 })
      return link
    } catch (error) {
      link.terminate(KalamError.from(error))
      throw error
    }
  }

  private lost(reason: KalamError): void {
    this.current = undefined
    this.live = undefined
    if (this.ended !== undefined || this.settings.config.storage !== 'memory') return
    this.ended = new KalamError({
      code: 'CONNECTION_CLOSED',
      message: `${reason.message}; the in-memory database '${this.settings.config.name}' ended with it`,
      hint: 'Connect again for an empty one.',
      cause: reason,
    })
  }
}

async function traced<T>(call: Promise<T>): Promise<T> {
  try {
    return await call
  } catch (error) {
    throw fromHere(error)
  }
}

/** Gives an error that came from the engine the stack of the call that it answers: of whoever awaits the caller of this. */
export function fromHere(error: unknown): unknown {
  if (error instanceof KalamError) (Error as { captureStackTrace?(error: Error): void }).captureStackTrace?.(error)
  return error
}

function closedError(name: string): KalamError {
  return new KalamError({ code: 'CONNECTION_CLOSED', message: `the connection to database '${name}' is closed` })
}

/** The same error with the stack of this throw. */
function revived(error: KalamError): KalamError {
  return new KalamError({ ...error.toJSON(), cause: error.cause })
}
