// One living engine, as the client sees it: requests go out, answers come back.
//
// Invariant: every call settles. It is answered, or the engine dies and all that was in flight is rejected, or it was
// told to stop and the engine did not react within the grace. What is not known is said: only a call that cannot
// have changed anything is rejected as retryable.

import { KalamError } from '../errors.js'
import type { Limit } from '../limit.js'
import { isReadOnly } from '../params.js'
import type { ColumnInfo } from '../types.js'
import { Outbox } from './outbox.js'
import type { FromHost, Op, Ops, Progress, RowsAnswer, ToHost } from './protocol.js'
import type { Receipt, RunResult } from './surface.js'
import type { Receiver, Spawn, Transport } from './transport.js'

/** How long a call that was told to stop may take to end, in milliseconds. */
const STOP_GRACE_MS = 2000

/** How a call is made. */
export interface CallSettings {
  /** Buffers that change hands where the engine is in another thread. */
  transfer?: Transferable[]
  limit?: Limit | undefined
  /** Whether the call cannot change anything; for statements their text, which tells it where that matters. */
  readOnly?: boolean | string
  onProgress?: ((progress: Progress) => void) | undefined
  /** The caller gives errors their stack by itself, which saves everybody's calls a promise. */
  untraced?: boolean
  /** Gives the pieces of a fed import. */
  feed?: (() => Promise<Uint8Array | undefined>) | undefined
}

interface Pending {
  settings: CallSettings
  resolve(value: unknown): void
  reject(error: KalamError): void
  /** Why it was told to stop. */
  stopped?: KalamError
  timer?: ReturnType<typeof setTimeout>
}

/** A link to one engine; see the module's comment. */
export class Link implements Receiver {
  /** Why the engine is gone, once it is. */
  dead: KalamError | undefined
  private transport: Transport | undefined
  private lastId = 0
  private received = 0
  private readonly pending = new Map<number, Pending>()
  private readonly outbox = new Outbox<ToHost>(
    (messages, transfer) => this.transport?.post(messages, transfer),
    ({ id }, cause) => {
      const message = `a value cannot be sent: ${(cause as Error).message}`
      this.take(id)?.reject(new KalamError({ code: 'PARAMETER_TYPE', message, cause }))
    },
  )
  /** Columns of results, where the host told to keep them. */
  private readonly shapes: (readonly ColumnInfo[])[] = []
  /** Told when nothing is in flight any more. */
  private onSettled: (() => void) | undefined

  private constructor(
    private readonly onDeath: (error: KalamError) => void,
    private readonly graceMs: number,
  ) {}

  /**
   * Starts a host.
   *
   * @param onDeath told when the engine is gone without having been asked to go
   */
  static async start(
    spawn: Spawn,
    onDeath: (error: KalamError) => void,
    graceMs: number = STOP_GRACE_MS,
  ): Promise<Link> {
    const link = new Link(onDeath, graceMs)
    link.transport = await spawn(link)
    return link
  }

  /** Whether buffers can be transferred (and must not be the caller's own). */
  get remote(): boolean {
    return this.transport?.remote ?? false
  }

  /** Makes a call. */
  call<K extends Op>(op: K, args: Ops[K]['args'], settings: CallSettings = {}): Promise<Ops[K]['result']> {
    return new Promise((resolve, reject) => {
      if (this.dead !== undefined || this.transport === undefined) return reject(this.lost(settings))
      const id = ++this.lastId
      this.pending.set(id, { settings, resolve: resolve as (value: unknown) => void, reject })
      this.outbox.put({ id, op, args } as ToHost, settings.transfer)
      settings.limit?.onStop(error => this.stop(id, error))
    })
  }

  /** Ends when nothing is in flight. */
  settled(): Promise<void> {
    if (this.pending.size === 0) return Promise.resolve()
    return new Promise(resolve => {
      this.onSettled = resolve
    })
  }

  /** Ends the host; what is in flight is rejected. */
  terminate(reason: KalamError): void {
    if (this.dead !== undefined) return
    this.dead = reason
    this.transport?.terminate()
    for (const id of [...this.pending.keys()]) {
      const call = this.take(id)
      call?.reject(call.stopped ?? this.lost(call.settings))
    }
  }

  /** {@inheritDoc Receiver.died} */
  died(error: KalamError): void {
    if (this.dead !== undefined) return
    this.terminate(error)
    this.onDeath(error)
  }

  /** {@inheritDoc Receiver.message} */
  message(messages: FromHost | readonly FromHost[]): void {
    this.received++
    if (Array.isArray(messages)) for (const message of messages as readonly FromHost[]) this.hear(message)
    else this.hear(messages as FromHost)
  }

  private hear(message: FromHost): void {
    if ('trap' in message) {
      this.died(
        new KalamError({
          code: 'INTERNAL_ERROR',
          message: `the engine stopped (${message.trap})`,
          hint: 'This is a defect of KalamDB. Please report it with the statement that caused it.',
        }),
      )
      return
    }
    const call = this.pending.get(message.id)
    // Also of an answer that nobody waits for: later ones may name its columns by their place alone.
    const result = 'shape' in message ? this.rowsOf(message) : undefined
    if (call === undefined) return
    if ('progress' in message) {
      try {
        call.settings.onProgress?.(message.progress)
      } catch (error) {
        // A defect of the caller's function: it surfaces as uncaught and does not end the call that it watches.
        queueMicrotask(() => {
          throw error
        })
      }
      return
    }
    if ('need' in message) {
      void this.feed(message.id, call)
      return
    }
    if ('heard' in message) {
      // A read that nobody waits for may end when it likes; a change is awaited for its outcome.
      if (call.stopped !== undefined && changesNothing(call.settings)) this.take(message.id)?.reject(call.stopped)
      return
    }
    this.take(message.id)
    if (!('error' in message)) {
      if (call.stopped !== undefined && changesNothing(call.settings)) call.reject(call.stopped)
      else call.resolve('shape' in message ? result : 'ok' in message ? message.ok : resultOf(message))
      return
    }
    const error = new KalamError(message.error)
    const ended = error.code === 'CANCELLED' || error.code === 'TIMEOUT'
    call.reject(ended && call.stopped !== undefined ? call.stopped : error)
  }

  private rowsOf({ shape, columns, packed }: RowsAnswer): RunResult {
    // Every result of this shape has them.
    if (columns !== undefined) this.shapes[shape] = Object.freeze(columns.map(column => Object.freeze(column)))
    return { columns: this.shapes[shape] as readonly ColumnInfo[], packed }
  }

  private async feed(id: number, call: Pending): Promise<void> {
    let piece: { bytes?: Uint8Array } | { error: ReturnType<KalamError['toJSON']> } = {}
    let transfer: Transferable[] = []
    try {
      const bytes = await call.settings.feed?.()
      if (bytes !== undefined) {
        // Pieces of a stream may be views of a larger buffer that is not ours.
        const own = !this.remote || bytes.byteLength === bytes.buffer.byteLength ? bytes : bytes.slice()
        piece = { bytes: own }
        if (this.remote) transfer = [own.buffer as ArrayBuffer]
      }
    } catch (cause) {
      const what = cause instanceof Error ? cause.message : String(cause)
      const error = new KalamError({ code: 'INVALID_DATA', message: `cannot read the source: ${what}` })
      piece = { error: (cause instanceof KalamError ? cause : error).toJSON() }
    }
    if (this.pending.has(id)) this.outbox.put({ id, op: 'piece', ...piece }, transfer)
  }

  private stop(id: number, error: KalamError): void {
    const call = this.pending.get(id)
    if (call === undefined) return
    call.stopped = error
    const receivedBefore = this.received
    this.outbox.put({ id, op: 'cancel' })
    this.outbox.flush()
    if (!this.pending.has(id)) return
    call.timer = setTimeout(() => {
      if (this.remote && this.received === receivedBefore) {
        // Not a word since: the engine is deaf. It is replaced, which ends every call.
        const seconds = this.graceMs / 1000
        this.died(new KalamError({ code: 'INTERNAL_ERROR', message: `the engine did not react for ${seconds} s` }))
        return
      }
      this.take(id)
      const hint = changesNothing(call.settings) ? undefined : UNKNOWN_OUTCOME
      call.reject(new KalamError({ ...error.toJSON(), hint, retryable: false, cause: error.cause }))
    }, this.graceMs)
  }

  private take(id: number): Pending | undefined {
    const call = this.pending.get(id)
    if (call?.timer !== undefined) clearTimeout(call.timer)
    this.pending.delete(id)
    if (this.pending.size === 0) this.onSettled?.()
    return call
  }

  private lost(settings: CallSettings): KalamError {
    const reason = this.dead ?? new KalamError({ code: 'CONNECTION_CLOSED', message: 'the engine is not running' })
    if (reason.code !== 'INTERNAL_ERROR') return new KalamError({ ...reason.toJSON(), cause: reason.cause })
    const readOnly = changesNothing(settings)
    return new KalamError({
      code: reason.code,
      message: `${reason.message} while this call was in flight`,
      hint: readOnly ? `The call changed nothing and can be repeated. ${reason.hint ?? ''}`.trim() : UNKNOWN_OUTCOME,
      retryable: readOnly,
    })
  }
}

function resultOf(message: { run: Receipt } | { ipc: Uint8Array }): RunResult {
  if ('ipc' in message) return message
  const [rowsAffected, seq, durability] = message.run
  return { receipt: { rowsAffected, seq, durability } }
}

const changesNothing = ({ readOnly }: CallSettings): boolean =>
  typeof readOnly === 'string' ? isReadOnly(readOnly) : readOnly === true

const UNKNOWN_OUTCOME = 'It is not known whether the call was applied, whole or not at all: check before repeating it.'
