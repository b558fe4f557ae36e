// The host: owns the engine and answers requests. It runs in the worker, or in the caller's thread.
//
// Invariant: a host owns at most one engine, and while that engine's database is stored it holds the database's lock.
// Every request is answered once, unless the instance traps: then the trap is announced and nothing else is sent,
// because the client rejects everything that was in flight.

import { KalamError } from '../errors.js'
import { openSource, runImport } from '../import.js'
import type { HeldLock } from '../lock.js'
import type { HostStorage } from '../storage.js'
import type { ColumnInfo, ConnectProgress, RescueFinding } from '../types.js'
import type { ResolvedWasm } from '../wasm.js'
import { Outbox } from './outbox.js'
import type { FromHost, HostSource, Op, Ops, Progress, ToHost } from './protocol.js'
import type { Cursor, Engine, Receipt, RunOptions, RunOutcome, SessionOptions, Surface } from './surface.js'

/** What a host needs from its surroundings. */
export interface HostEnvironment {
  compile(wasm: ResolvedWasm | undefined, onProgress?: (p: ConnectProgress) => void): Promise<WebAssembly.Module>
  instantiate(module: WebAssembly.Module, onTrap: (error: Error) => void): Promise<Surface>
  /** Takes the database's lock; `graceMs` overrides how long to wait for its holder. */
  lock(name: string, graceMs?: number): Promise<HeldLock>
}

/** Sends a message; buffers in `transfer` change hands where there is another thread. */
export type Post = (message: FromHost | readonly FromHost[], transfer: Transferable[]) => void

/** Buffers below this size are copied to the other thread: handing them over takes longer. */
const TRANSFER_BYTES = 1 << 15

/** So many descriptions of results the client keeps. */
const SHAPES = 256

/** A request that runs in the host, not in the engine alone. */
class Running {
  private controller: AbortController | undefined
  /** Gives the piece that a fed import waits for. */
  piece?: (message: { bytes?: Uint8Array; error?: KalamError }) => void

  /** Made for those who ask: most requests are over before a signal would be. */
  get abort(): AbortController {
    this.controller ??= new AbortController()
    return this.controller
  }
}

/** The host; see the module's comment. */
export class EngineHost {
  private engine: Engine | undefined
  private lock: HeldLock | undefined
  /** Storage that was made for this engine, and ends with it. */
  private storage: HostStorage | undefined
  private trapped = false
  /** The opening under way, or the last one. */
  private opening: Promise<unknown> = Promise.resolve()
  private readonly running = new Map<number, Running>()
  /** Open cursors, by the id of the call that opened them. */
  private readonly cursors = new Map<number, Cursor>()
  private readonly outbox = new Outbox<FromHost>(
    (messages, transfer) => this.post(messages, transfer),
    (message, cause) => {
      if ('id' in message) this.post(failed(message.id, cause), [])
    },
  )
  /** Columns that the client has, by the place where it keeps them, and the other way round. */
  private readonly shapes = new Array<ColumnInfo[] | undefined>(SHAPES)
  private readonly places = new WeakMap<ColumnInfo[], number>()
  private nextPlace = 0

  constructor(
    private readonly post: Post,
    private readonly environment: HostEnvironment,
  ) {}

  /** Takes the messages of the client. Never throws. */
  receive(messages: ToHost | readonly ToHost[]): void {
    this.outbox.gather(() => {
      if (!isList(messages)) {
        this.take(messages)
        return
      }
      for (let i = 0; i < messages.length; ) {
        const together = runsTogether(messages, i)
        if (together.length > 1) void this.answerMany(together)
        else this.take(messages[i] as ToHost)
        i += Math.max(1, together.length)
      }
    })
  }

  /**
   * Closes the engine, if there is one, and gives the database free; for a host in the caller's thread, which would
   * hold it for as long as the thread lives. A worker just ends.
   */
  dispose(): void {
    const close = (): Promise<unknown> => this.close()
    // Nobody is there to be told what went wrong.
    this.opening.then(close, close).catch(() => {})
  }

  private take(message: ToHost): void {
    if (this.trapped) return
    if (message.op === 'cancel') {
      this.cancel(message.id)
    } else if (message.op === 'piece') {
      const error = message.error === undefined ? {} : { error: KalamError.from(message.error) }
      this.running.get(message.id)?.piece?.({ ...(message.bytes && { bytes: message.bytes }), ...error })
    } else if (message.op === 'run') {
      this.run(message)
    } else {
      void this.answer(message.id, message.op, message.args)
    }
  }

  private cancel(id: number): void {
    this.send({ id, heard: true })
    this.running.get(id)?.abort.abort()
    this.engine?.cancel(id)
  }

  /** Runs statements. Most are over at once, and then nothing is kept for their end. */
  private run({ id, args }: RunCall): void {
    try {
      const { opened } = this
      const options = runOptionsOf(args)
      if (args.mode === 'query' && options === undefined) {
        const rows = opened.get(args.sql, args.params)
        if (rows !== undefined) {
          this.sendRows(id, rows[0], rows[1] === undefined ? [] : [rows[1]])
          return
        }
      }
      const outcome = opened.run(args.sql, args.params, args.mode, id, options, this.onRun)
      if (outcome !== undefined) this.sendRun(id, outcome)
    } catch (error) {
      this.send(failed(id, error))
    }
  }

  /** Sends what a run has come to, in the event that ended it. */
  private readonly onRun = (id: number, outcome: RunOutcome | undefined, error: unknown): void => {
    this.outbox.gather(() => {
      if (outcome === undefined) this.send(failed(id, error))
      else this.sendRun(id, outcome)
    })
  }

  private async answer(id: number, op: Exclude<Op, 'run'>, args: Ops[Op]['args']): Promise<void> {
    const running = new Running()
    this.running.set(id, running)
    try {
      const handler = this[op] as (args: Ops[Op]['args'], id: number, running: Running) => Promise<unknown>
      const result = await handler.call(this, args, id, running)
      this.send({ id, ok: result }, buffersOf(op, result))
    } catch (error) {
      this.send(failed(id, error))
    } finally {
      this.running.delete(id)
    }
  }

  /** Answers calls that can be much less work together. What has begun cannot be told to stop: it is short. */
  private async answerMany(calls: readonly RunCall[]): Promise<void> {
    const [{ args }] = calls as [RunCall]
    try {
      const sets = calls.map(call => call.args.params)
      const outcomes = await this.opened.runMany(args.sql, sets, runOptionsOf(args))
      calls.forEach(({ id }, i) => {
        const outcome = outcomes[i]
        if (Array.isArray(outcome)) this.sendRun(id, outcome as Receipt)
        else this.send(failed(id, outcome))
      })
    } catch (error) {
      for (const { id } of calls) this.send(failed(id, error))
    }
  }

  private sendRun(id: number, [rowsAffected, seq, durability, columns, packed]: RunOutcome): void {
    if (columns instanceof Uint8Array) this.send({ id, ipc: columns }, [columns.buffer as ArrayBuffer])
    else if (columns === undefined) this.send({ id, run: [rowsAffected, seq, durability] })
    else this.sendRows(id, columns, packed as Uint8Array[])
  }

  /** Sends rows, and their columns if the client does not have them. */
  private sendRows(id: number, columns: ColumnInfo[], packed: Uint8Array[]): void {
    const transfer = packed.some(isLarge) ? buffersIn(packed.filter(isLarge)) : undefined
    const known = this.places.get(columns)
    if (known !== undefined && this.shapes[known] === columns) {
      this.send({ id, shape: known, packed }, transfer)
      return
    }
    const shape = this.nextPlace
    this.nextPlace = (shape + 1) % SHAPES
    this.shapes[shape] = columns
    this.places.set(columns, shape)
    this.send({ id, shape, columns, packed }, transfer)
  }

  private send(message: FromHost, transfer?: Transferable[]): void {
    if (!this.trapped) this.outbox.put(message, transfer)
  }

  private onTrap(error: Error): void {
    if (this.trapped) return
    this.send({ trap: `${error.name}: ${error.message}` })
    this.outbox.flush()
    this.trapped = true
    this.engine = undefined
    // In a worker the lock ends with it. In the caller's thread it must be given free for the instance that follows.
    void this.lock?.release()
    this.lock = undefined
    // The engine that follows waits for its lock.
    void this.storage?.close()
    this.storage = undefined
  }

  private get opened(): Engine {
    if (this.engine === undefined) throw new KalamError({ code: 'CONNECTION_CLOSED', message: 'no database is open' })
    return this.engine
  }

  private async surface(wasm: ResolvedWasm | undefined, id: number): Promise<[Surface, WebAssembly.Module]> {
    const module = await this.environment.compile(wasm, progress => this.send({ id, progress }))
    return [await this.environment.instantiate(module, error => this.onTrap(error)), module]
  }

  protected open(args: Ops['open']['args'], id: number): Promise<Ops['open']['result']> {
    const opening = this.openEngine(args, id)
    this.opening = opening
    return opening
  }

  private async openEngine(
    { config, wasm, lockGraceMs }: Ops['open']['args'],
    id: number,
  ): Promise<Ops['open']['result']> {
    // The lock first: a second tab should not download the engine only to be turned away.
    // Storage that the caller supplies keeps others away by itself.
    const lock = config.storage === 'indexeddb' ? await this.environment.lock(config.name, lockGraceMs) : undefined
    this.lock = lock
    let made: HostStorage | undefined
    try {
      const storage = typeof config.storage === 'function' ? await config.storage() : config.storage
      if (typeof config.storage === 'function') made = storage as HostStorage
      this.storage = made
      const [surface, module] = await this.surface(wasm, id)
      this.send({ id, progress: { phase: 'open', bytes: 0 } })
      this.engine = await surface.Engine.open({ ...config, storage })
      return { module }
    } catch (error) {
      this.lock = undefined
      this.storage = undefined
      await lock?.release()
      await made?.close()
      throw error
    }
  }

  protected prepare({ sql }: Ops['prepare']['args']) {
    return this.opened.prepare(sql)
  }

  protected async cursor(args: Ops['cursor']['args'], id: number): Promise<Ops['cursor']['result']> {
    const { sql, params, format, rowsPerFile, durability, ...rest } = args
    const cursor = await this.opened.cursor(sql, params, {
      requestId: id,
      ...sessionOf(rest),
      ...(format !== undefined && { format }),
      ...(rowsPerFile !== undefined && { rowsPerFile }),
      ...(durability !== undefined && { durability }),
    })
    this.cursors.set(id, cursor)
    return { cursor: id, columns: cursor.columns }
  }

  protected async fetch({ cursor, rows }: Ops['fetch']['args'], _: number, running: Running) {
    return { packed: await this.readCursor(cursor, running, open => open.next(rows)) }
  }

  protected fetchPiece({ cursor }: Ops['fetchPiece']['args'], _: number, running: Running) {
    return this.readCursor(cursor, running, open => open.nextPiece())
  }

  private async readCursor<T>(id: number, { abort }: Running, read: (cursor: Cursor) => Promise<T>): Promise<T> {
    const cursor = this.cursors.get(id)
    if (cursor === undefined) throw new KalamError({ code: 'CONNECTION_CLOSED', message: 'the cursor is closed' })
    const close = (): void => cursor.close()
    abort.signal.addEventListener('abort', close, { once: true })
    try {
      return await read(cursor)
    } finally {
      abort.signal.removeEventListener('abort', close)
    }
  }

  protected async closeCursor({ cursor }: Ops['closeCursor']['args']): Promise<undefined> {
    this.cursors.get(cursor)?.close()
    this.cursors.delete(cursor)
  }

  protected async begin({ readOnly, ...rest }: Ops['begin']['args']): Promise<Ops['begin']['result']> {
    const options = { ...sessionOf(rest), ...(readOnly !== undefined && { readOnly }) }
    return { transaction: await this.opened.begin(options) }
  }

  protected commit({ transaction, durability }: Ops['commit']['args'], id: number) {
    return this.opened.commit(transaction, { requestId: id, ...(durability !== undefined && { durability }) })
  }

  protected async rollback({ transaction }: Ops['rollback']['args']): Promise<undefined> {
    await this.opened.rollback(transaction)
  }

  protected async endSession({ user, session }: Ops['endSession']['args']): Promise<undefined> {
    this.opened.endSession(user, session)
  }

  protected describe({ table, ...rest }: Ops['describe']['args']) {
    return this.opened.describe(table, sessionOf(rest))
  }

  protected insertPacked({ table, columns, packed, durability, ...rest }: Ops['insertPacked']['args']) {
    return this.opened.insertPacked(table, columns, packed, {
      ...sessionOf(rest),
      ...(durability !== undefined && { durability }),
    })
  }

  protected insertArrow({ table, ipc, durability, ...rest }: Ops['insertArrow']['args']) {
    return this.opened.insertArrow(table, ipc, { ...sessionOf(rest), ...(durability !== undefined && { durability }) })
  }

  protected async import(args: Ops['import']['args'], id: number, running: Running) {
    const { table, source, progress, ...options } = args
    const engine = this.opened
    const { signal } = running.abort
    const opened = await openSource(this.hostSource(source, id, running), signal)
    return runImport(
      settings => engine.importer(table, settings),
      opened,
      options,
      signal,
      p => {
        if (progress) this.send({ id, progress: p as Progress })
      },
    )
  }

  private hostSource(source: HostSource, id: number, running: Running) {
    if (source.kind !== 'fed') return source
    const next = (): Promise<Uint8Array | undefined> =>
      new Promise((resolve, reject) => {
        running.piece = ({ bytes, error }) => (error === undefined ? resolve(bytes) : reject(error))
        this.send({ id, need: true })
      })
    return { ...source, next }
  }

  protected async backup(): Promise<Ops['backup']['result']> {
    const chunks: Uint8Array[] = []
    await this.opened.backup(bytes => void chunks.push(bytes))
    return { chunks }
  }

  protected status(args: Ops['status']['args']) {
    return this.opened.status(sessionOf(args))
  }

  protected async close(): Promise<undefined> {
    const { engine, lock } = this
    this.engine = undefined
    this.lock = undefined
    // The engine closes it.
    this.storage = undefined
    try {
      await engine?.close()
    } finally {
      await lock?.release()
    }
  }

  protected async rescue({ name, storage, wasm }: Ops['rescue']['args'], id: number): Promise<Ops['rescue']['result']> {
    const lock = storage === 'indexeddb' ? await this.environment.lock(name) : undefined
    try {
      const [surface] = await this.surface(wasm, id)
      const chunks: Uint8Array[] = []
      const supplied = typeof storage === 'function' ? await storage() : storage
      const lost = typeof supplied === 'string' ? [] : await damageOf(supplied)
      const report = await surface.Engine.rescue({ name, storage: supplied }, bytes => void chunks.push(bytes))
      return { chunks, report: [...lost, ...report] }
    } finally {
      await lock?.release()
    }
  }

  protected async deleteDatabase({ name, wasm }: Ops['deleteDatabase']['args'], id: number): Promise<undefined> {
    const lock = await this.environment.lock(name)
    try {
      const [surface] = await this.surface(wasm, id)
      await surface.deleteDatabase(name)
    } finally {
      await lock.release()
    }
  }
}

/** What a storage knows to be lost, as rows of a report. */
async function damageOf(storage: HostStorage): Promise<RescueFinding[]> {
  return ((await storage.damage?.()) ?? []).map(({ object, detail }) => ({ object, status: 'damaged', detail }))
}

type RunCall = Extract<ToHost, { op: 'run' }>

const failed = (id: number, error: unknown): FromHost => ({ id, error: KalamError.from(error).toJSON() })

const isLarge = (view: Uint8Array): boolean => view.byteLength >= TRANSFER_BYTES

const buffersIn = (views: Uint8Array[]): Transferable[] => [...new Set(views.map(view => view.buffer as ArrayBuffer))]

const isList = (messages: ToHost | readonly ToHost[]): messages is readonly ToHost[] => Array.isArray(messages)

/** The calls from `start` on that run one INSERT with one set of parameters after the other. */
function runsTogether(messages: readonly ToHost[], start: number): RunCall[] {
  const together: RunCall[] = []
  for (let i = start; i < messages.length; i++) {
    const message = messages[i] as ToHost
    if (message.op !== 'run') break
    const [first] = together
    if (first === undefined) {
      const { mode, sql, transaction, timeoutMs, params } = message.args
      const alone = mode !== 'exec' || transaction !== undefined || timeoutMs !== undefined || params === undefined
      if (alone || !/^\s*insert\b/i.test(sql)) break
    } else if (!SAME.every(name => message.args[name] === first.args[name])) {
      break
    }
    together.push(message)
  }
  return together
}

const SAME = ['sql', 'mode', 'user', 'session', 'transaction', 'durability', 'timeoutMs'] as const

/** What a run is made with beside its statement: mostly nothing. */
function runOptionsOf(args: Ops['run']['args']): RunOptions | undefined {
  const { durability, timeoutMs, user, transaction } = args
  if (durability === undefined && timeoutMs === undefined && user === undefined && transaction === undefined) {
    return undefined
  }
  return {
    ...sessionOf(args),
    ...(durability !== undefined && { durability }),
    ...(timeoutMs !== undefined && { timeoutMs }),
  }
}

/** The session that a call belongs to, as the engine takes it. */
function sessionOf({ user, session, transaction }: SessionOptions): SessionOptions {
  return {
    ...(user !== undefined && { user }),
    ...(session !== undefined && { session }),
    ...(transaction !== undefined && { transaction }),
  }
}

/** The buffers of a result that change hands instead of being copied. */
function buffersOf(op: Op, result: unknown): Transferable[] {
  if (op === 'backup' || op === 'rescue')
    return (result as Ops['backup']['result']).chunks.map(chunk => chunk.buffer as ArrayBuffer)
  if (op === 'fetch') return (result as Ops['fetch']['result']).packed.map(buffer => buffer.buffer as ArrayBuffer)
  if (op === 'fetchPiece') {
    const piece = result as Ops['fetchPiece']['result']
    return piece === undefined ? [] : [piece.bytes.buffer as ArrayBuffer]
  }
  return []
}
