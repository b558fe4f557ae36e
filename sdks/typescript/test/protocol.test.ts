// Client and host, over a MessageChannel as over a worker and inline, with an engine double that plays what a real one
// cannot be asked for on demand: it hangs, dies, goes deaf. What an engine computes is tested with the real one.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { MessageChannel } from 'node:worker_threads'
import { Connection } from '../src/database.js'
import { EngineClient } from '../src/engine/client.js'
import { EngineHost, type HostEnvironment } from '../src/engine/host.js'
import { spawnInline } from '../src/engine/inline-host.js'
import type { FromHost, ToHost } from '../src/engine/protocol.js'
import type {
  Cursor,
  Engine,
  EngineConfig,
  ImporterOptions,
  Receipt,
  RunMode,
  RunOptions,
  RunOutcome,
  SessionOptions,
  TableInfo,
} from '../src/engine/surface.js'
import type { Receiver, Spawn } from '../src/engine/transport.js'
import { KalamError } from '../src/errors.js'
import { encodeRows } from '../src/packed/encode.js'
import type { ColumnInfo, ImportProgress } from '../src/types.js'
import { code } from './code.js'

const COLUMNS: ColumnInfo[] = [
  { name: 'id', type: 'BIGINT', nullable: false },
  { name: 'name', type: 'TEXT', nullable: true },
]
const RECEIPT = { rowsAffected: 1, seq: 7n, durability: 'relaxed' } as const
const RECEIVED: Receipt = [1, 7n, 'relaxed']
const MODULE = new WebAssembly.Module(new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]))

/** One engine that does what its statements say. */
class ScriptedEngine implements Engine {
  cancelled = new Map<number, (error: object) => void>()
  closed = false
  log: string[] = []
  imported: number[] = []
  importer_: { options: ImporterOptions; aborted: boolean; finished: boolean } | undefined
  inserted: { columns: string[]; packed: Uint8Array } | undefined
  failPush = false
  /** Which session each call came for, in order. */
  sessions: string[] = []
  endedSessions: string[] = []
  closedCursors: string[] = []

  private heard(what: string, { user, session }: SessionOptions): void {
    this.sessions.push(user === undefined ? what : `${what} as ${user}`)
    assert.equal(user === undefined, session === undefined)
  }

  constructor(
    readonly config: EngineConfig,
    private readonly world: World,
    private readonly onTrap: (error: Error) => void,
  ) {}

  /** Gives two pieces; `closedCursors` tells that readers close what they open. */
  async cursor(
    sql: string,
    _params: unknown,
    options: SessionOptions & { format?: string; durability?: string },
  ): Promise<Cursor> {
    this.heard('cursor', options)
    if (options.durability !== undefined) this.log.push(`cursor ${options.durability}`)
    if (sql.includes('wait')) return new Promise(() => {})
    let left = 2
    const close = (): void => void this.closedCursors.push(sql)
    const pack = (): Uint8Array => encodeRows('t', COLUMNS, [{ id: BigInt(left), name: sql }]).buffer
    return {
      columns: COLUMNS,
      next: async () => {
        if (sql.includes('fail late') && left === 1) throw { name: 'KalamError', code: 'TIMEOUT', message: 'late' }
        return left-- > 0 ? [pack()] : []
      },
      nextPiece: async () => (left-- > 0 ? { bytes: new Uint8Array([left]), last: left === 0 } : undefined),
      close,
    }
  }

  /** The sets of parameters that came together. */
  together: unknown[][] = []

  async runMany(sql: string, sets: unknown[], options: RunOptions | undefined): Promise<(Receipt | object)[]> {
    this.heard('runMany', options ?? {})
    this.together.push(sets)
    const one = ([value]: [unknown]): Receipt | object =>
      value === 'bad' ? { name: 'KalamError', code: 'UNIQUE_VIOLATION', sqlstate: '23505', message: sql } : RECEIVED
    return sets.map(set => one(set as [unknown]))
  }

  run(
    sql: string,
    params: unknown,
    mode: RunMode,
    id: number,
    options: RunOptions | undefined,
    done: Parameters<Engine['run']>[5],
  ): undefined {
    const later = this.runLater(sql, params, mode, id, options)
    later.then(outcome => done(id, outcome, undefined)).catch(error => done(id, undefined, error))
  }

  private async runLater(
    sql: string,
    params: unknown,
    mode: RunMode,
    id: number,
    options: RunOptions | undefined,
  ): Promise<RunOutcome> {
    this.log.push(sql)
    this.heard('run', options ?? {})
    if (sql.startsWith('EXECUTE AS') && (params as unknown[])[0] === 'root') {
      throw { name: 'KalamError', code: 'INSUFFICIENT_PRIVILEGE', sqlstate: '42501', message: 'no' }
    }
    if (sql.includes('trap')) {
      this.onTrap(new WebAssembly.RuntimeError('unreachable'))
      return new Promise(() => {})
    }
    if (sql.includes('hang')) return new Promise(() => {})
    if (sql.includes('wait')) return new Promise((_, reject) => this.cancelled.set(id, reject))
    if (sql.includes('commit late')) {
      return new Promise(resolve => this.cancelled.set(id, () => resolve(RECEIVED)))
    }
    if (sql.includes('deaf')) {
      this.world.deaf = true
      return new Promise(() => {})
    }
    if (sql.includes('fail')) {
      throw {
        name: 'KalamError',
        code: 'SYNTAX_ERROR',
        sqlstate: '42601',
        message: 'near',
        position: { line: 1, column: 4 },
      }
    }
    const value = Array.isArray(params) ? params[0] : undefined
    const packed = encodeRows('t', COLUMNS, [{ id: 1n, name: typeof value === 'string' ? value : null }]).buffer
    if (mode === 'exec') return RECEIVED
    const shape = /^shape (\d+)/.exec(sql)
    if (shape !== null) return [...RECEIVED, this.world.columns[Number(shape[1])] as ColumnInfo[], []]
    return mode === 'query' ? [...RECEIVED, COLUMNS, [packed]] : [...RECEIVED, new Uint8Array([1, 2, 3])]
  }

  get(sql: string, params: unknown): [ColumnInfo[], Uint8Array | undefined] | undefined {
    if (sql !== 'point') return undefined
    this.log.push(sql)
    const [id] = params as [number]
    return [COLUMNS, id === 1 ? encodeRows('t', COLUMNS, [{ id: 1n, name: 'one' }]).buffer : undefined]
  }

  async prepare(sql: string): Promise<string[]> {
    this.log.push(`prepare ${sql}`)
    if (sql.includes('fail')) throw { name: 'KalamError', code: 'SYNTAX_ERROR', sqlstate: '42601', message: 'near' }
    return ['$1']
  }

  cancel(id: number): void {
    this.cancelled.get(id)?.({ name: 'KalamError', code: 'CANCELLED', sqlstate: '57014', message: 'cancelled' })
  }

  async begin(): Promise<string> {
    return 'tx'
  }

  async commit() {
    return RECEIPT
  }

  async rollback(): Promise<void> {}

  endSession(user: string): void {
    this.endedSessions.push(user)
  }

  async describe(table: string, options: SessionOptions): Promise<TableInfo> {
    this.heard('describe', options)
    const columns = COLUMNS.map(c => ({ ...c, primaryKey: c.name === 'id', hasDefault: false }))
    return { namespace: 'default', name: table, type: 'SHARED', columns }
  }

  async insertPacked(_table: string, columns: string[], packed: Uint8Array, options: SessionOptions) {
    this.heard('insertPacked', options)
    this.inserted = { columns, packed }
    return RECEIPT
  }

  async insertArrow(_table: string, ipc: Uint8Array, options: SessionOptions) {
    this.heard('insertArrow', options)
    this.inserted = { columns: [], packed: ipc }
    return RECEIPT
  }

  async importer(_table: string, options: ImporterOptions) {
    this.heard('importer', options)
    const state = { options, aborted: false, finished: false }
    this.importer_ = state
    return {
      push: async (bytes: Uint8Array) => {
        if (this.failPush) throw { name: 'KalamError', code: 'INVALID_DATA', message: 'line 3: bad row' }
        for (const byte of bytes) this.imported.push(byte)
        return { bytes: this.imported.length, rows: this.imported.length }
      },
      finish: async (onProgress?: (p: { rows: number; totalRows?: number }) => void) => {
        onProgress?.({ rows: 1, totalRows: 2 })
        state.finished = true
        return { ...RECEIPT, rowsAffected: this.imported.length }
      },
      abort: () => {
        state.aborted = true
      },
    }
  }

  lastImport(): { aborted: boolean; finished: boolean } {
    assert.ok(this.importer_)
    return this.importer_
  }

  async status(options: SessionOptions) {
    this.heard('status', options)
    const memory = { wasm: 1, hotRows: 2, hotBytes: 3, query: 4 }
    const storage = typeof this.config.storage === 'string' ? this.config.storage : ('host' as const)
    return { storage, version: '0.1.0', nodeId: 'n', records: 5, bytes: 6, memory, log: { commits: 7, groups: 8 } }
  }

  async backup(chunk: (bytes: Uint8Array) => void): Promise<void> {
    for (const byte of [1, 2, 3]) chunk(new Uint8Array([byte]))
  }

  async close(): Promise<void> {
    this.closed = true
  }
}

/** What is around the engines: it counts them, and can take the voice of the host away. */
class World {
  engines: ScriptedEngine[] = []
  /** What `shape n` gives rows of. */
  columns: ColumnInfo[][] = []
  locks = 0
  compiled: unknown[] = []
  deaf = false
  failOpen: object | undefined
  /** What compiling waits for. */
  download: Promise<void> | undefined
  deaths: (() => void)[] = []

  get engine(): ScriptedEngine {
    return this.engines.at(-1) as ScriptedEngine
  }

  readonly environment: HostEnvironment = {
    compile: async (wasm, onProgress) => {
      this.compiled.push(wasm)
      await this.download
      onProgress?.({ phase: 'compile', bytes: 8, totalBytes: 8 })
      return MODULE
    },
    lock: async () => {
      this.locks++
      let held = true
      return {
        release: async () => {
          if (held) this.locks--
          held = false
        },
      }
    },
    instantiate: async (_module, onTrap) => ({
      Engine: {
        rescue: async () => [],
        open: async config => {
          if (this.failOpen) throw this.failOpen
          const engine = new ScriptedEngine(config, this, onTrap)
          this.engines.push(engine)
          return engine
        },
      },
      deleteDatabase: async () => {},
      version: () => '0.1.0',
    }),
  }

  /** A host behind a MessageChannel: cloning, transfer and asynchrony are those of a worker. */
  readonly remote: Spawn = (receiver: Receiver) => {
    const { port1, port2 } = new MessageChannel()
    this.deaf = false
    const host = new EngineHost((message, transfer) => {
      if (!this.deaf) port2.postMessage(message, transfer as never[])
    }, this.environment)
    port2.on('message', (message: ToHost) => host.receive(message))
    port1.on('message', (message: FromHost) => receiver.message(message))
    this.deaths.push(() => {
      port1.close()
      receiver.died(new KalamError({ code: 'INTERNAL_ERROR', message: "the engine's worker failed: gone" }))
    })
    return {
      remote: true,
      post: (message, transfer) => port1.postMessage(message, transfer as never[]),
      // The locks of a worker end with it.
      terminate: () => {
        port1.close()
        this.locks = 0
      },
    }
  }

  readonly inline: Spawn = receiver => spawnInline(receiver, this.environment)
}

async function open(spawn: Spawn, storage: 'indexeddb' | 'memory' = 'indexeddb') {
  const config = { name: 'shop', storage }
  const client = new EngineClient({ spawn, config, wasm: undefined, graceMs: 30 })
  await client.open()
  return new Connection('shop', client, 'bigint', 'relaxed')
}

for (const kind of ['remote', 'inline'] as const) {
  describe(`requests, ${kind}`, () => {
    it('answers calls, in rows, Arrow and receipts', async () => {
      const world = new World()
      const db = await open(world[kind])
      const rows = await db.query('q', ['ü'])
      assert.deepEqual([...rows], [{ id: 1n, name: 'ü' }])
      assert.deepEqual(rows.columns, COLUMNS)
      assert.deepEqual(Object.keys(rows), ['0'])
      const { sql } = db
      assert.equal((await sql`q ${'x'}`)[0]?.name, 'x')
      assert.equal(world.engine.log.at(-1), 'q $1')
      assert.deepEqual(await db.queryOne('q'), { id: 1n, name: null })
      assert.deepEqual(await db.exec('e'), RECEIPT)
      assert.deepEqual(await db.arrow('a'), new Uint8Array([1, 2, 3]))
      assert.deepEqual(
        (await Promise.all([1, 2, 3].map(n => db.queryOne(`q${n}`, [`${n}`])))).map(r => r?.name),
        ['1', '2', '3'],
      )
      const status = await db.status()
      assert.equal(status.role, 'single')
      assert.equal(status.persisted, false)
      await db[Symbol.asyncDispose]()
      assert.equal(world.engine.closed, true)
      assert.equal(world.locks, 0)
    })

    it('gives the inserts of one turn to the engine together, and each its own outcome', async () => {
      const world = new World()
      const db = await open(world[kind])
      const insert = (value: string) => db.exec('INSERT INTO t VALUES ($1)', [value])
      const outcomes = await Promise.allSettled([
        insert('a'),
        insert('bad'),
        insert('c'),
        db.exec('INSERT INTO u VALUES ($1)', ['d']),
        insert('e'),
        db.exec('INSERT INTO t VALUES ($1)', ['timed'], { timeoutMs: 1000 }),
        db.exec('UPDATE t SET a = $1', ['x']),
        db.exec('UPDATE t SET a = $1', ['y']),
      ])
      assert.deepEqual(world.engine.together, [[['a'], ['bad'], ['c']]])
      assert.deepEqual(
        outcomes.map(o => (o.status === 'fulfilled' ? o.value : (o.reason as KalamError).code)),
        [RECEIPT, 'UNIQUE_VIOLATION', RECEIPT, RECEIPT, RECEIPT, RECEIPT, RECEIPT, RECEIPT],
      )
      await db.close()
    })

    it('rejects the one call of a turn that cannot be sent', async () => {
      if (kind === 'inline') return
      const db = await open(new World()[kind])
      const calls = ['a', { f: () => 1 }, 'c'].map(value => db.queryOne('q', [value as never]))
      const [a, b, c] = await Promise.allSettled(calls)
      assert.deepEqual([a?.status, b?.status, c?.status], ['fulfilled', 'rejected', 'fulfilled'])
      assert.equal((b as PromiseRejectedResult).reason.code, 'PARAMETER_TYPE')
      await db.close()
    })

    it('gives every result of a statement its columns, however many statements there are', async () => {
      const world = new World()
      const db = await open(world[kind])
      for (let i = 0; i < 600; i++) world.columns.push([{ name: `c${i}`, type: 'BIGINT', nullable: true }])
      for (const n of [0, 1, 0, 300, 599, 0, 1, 43, 299]) {
        const names = (await db.query(`shape ${n}`)).columns.map(c => c.name)
        assert.deepEqual(names, [`c${n}`])
      }
      const all = await Promise.all(world.columns.map((_, n) => db.query(`shape ${n}`)))
      all.forEach((rows, n) => {
        assert.equal(rows.columns[0]?.name, `c${n}`)
      })
      await db.close()
    })

    it('asks for a row that is known at once, and runs what is not, or is asked with options', async () => {
      const world = new World()
      const db = await open(world[kind])
      const [one, none, both] = await Promise.all([
        db.queryOne('point', [1]),
        db.query('point', [2]),
        db.query('point', [1]),
      ])
      assert.deepEqual({ ...one }, { id: 1n, name: 'one' })
      assert.deepEqual([none.length, none.columns, both.length], [0, COLUMNS, 1])
      assert.deepEqual(world.engine.sessions, [])
      await db.query('point', [1], { timeoutMs: 1000 })
      await db.exec('point', [1])
      await (await db.as('eve')).query('point', [1])
      assert.deepEqual(world.engine.sessions, ['run', 'run', 'run', 'run as eve'])
      await db.close()
    })

    it('streams rows and files, and closes what it opened', async () => {
      const world = new World()
      const db = await open(world[kind])
      const seen: unknown[] = []
      for await (const rows of db.stream('all')) {
        assert.deepEqual(rows.columns, COLUMNS)
        seen.push(...rows.map(row => row.id))
      }
      assert.deepEqual(seen, [1n, 0n])
      for await (const rows of db.stream('first')) {
        assert.equal(rows.length, 1)
        break
      }
      const late = async () => {
        for await (const _ of db.stream('fail late'));
      }
      await assert.rejects(late, code('TIMEOUT'))
      assert.deepEqual(await db.export('t', { durability: 'strict' }), new Uint8Array([1, 0]))
      assert.equal(world.engine.log.at(-1), 'cursor strict')
      const files = []
      for await (const file of db.exportFiles('SELECT 1', { format: 'csv', rowsPerFile: 5 })) files.push(file)
      assert.deepEqual(files, [{ name: 'part-00000.csv', bytes: new Uint8Array([1, 0]) }])
      await assert.rejects(db.export('t', { format: 'xml' as never }), code('INVALID_OPTION'))
      assert.deepEqual(world.engine.closedCursors, ['all', 'first', 'fail late', 'SELECT * FROM t', 'SELECT 1'])
      assert.equal(world.engine.sessions.filter(one => one === 'cursor').length, 5)
      await db.close()
    })

    it('revives errors and goes on', async () => {
      const world = new World()
      const db = await open(world[kind])
      await assert.rejects(
        db.query('fail'),
        code('SYNTAX_ERROR', { position: { line: 1, column: 4 }, sqlstate: '42601' }),
      )
      assert.equal((await db.query('q')).length, 1)
      for (const options of [{}, { timeoutMs: 1000 }]) {
        const whoAsked = async (): Promise<unknown> => await db.query('fail', [], options)
        await assert.rejects(whoAsked, ({ stack }: Error) => /KalamError: near\n.*whoAsked/s.test(stack ?? ''))
      }
      await assert.rejects(db.exec(5 as never), code('INVALID_OPTION'))
      await assert.rejects(db.exec('x', undefined, { durability: 'none' as never }), code('INVALID_OPTION'))
      const unknown = code('INVALID_OPTION', /unknown option 'timeout'/)
      const wrong = { timeout: 5 } as never
      await assert.rejects(db.query('q', [], wrong), unknown)
      await assert.rejects(db.insert('t', [], wrong), unknown)
      await assert.rejects(db.import('t', new Blob(), wrong), unknown)
      await assert.rejects(db.export('t', wrong), unknown)
      await assert.rejects(db.stream('q', [], wrong).next(), unknown)
      await assert.rejects(
        db.transaction(() => 1, wrong),
        unknown,
      )
      for (const call of [() => db.prepare('q', wrong), () => db.backup(wrong), () => db.status(wrong)]) {
        await assert.rejects(call, unknown)
      }
      await assert.rejects(db.query('q', [], { signal: {} as never }), code('INVALID_OPTION', /signal/))
      await assert.rejects(db.import('t', new Blob(), { onProgress: 1 as never }), code('INVALID_OPTION', /onProgress/))
      await db.close()
    })

    it('gives up opening cleanly and can be tried again', async () => {
      const world = new World()
      world.failOpen = { name: 'KalamError', code: 'UNSUPPORTED_FORMAT', message: 'written by version 9' }
      await assert.rejects(open(world[kind]), code('UNSUPPORTED_FORMAT'))
      assert.equal(world.locks, 0)
      world.failOpen = undefined
      await (await open(world[kind])).close()
    })

    it('lets go of the database when opening is given up, also in the middle of a download', async () => {
      const world = new World()
      const client = (): EngineClient =>
        new EngineClient({ spawn: world[kind], config: { name: 'shop', storage: 'indexeddb' }, wasm: undefined })
      let arrive = (): void => {}
      world.download = new Promise(resolve => {
        arrive = resolve
      })
      const givenUp = new AbortController()
      const opening = client().open(givenUp.signal)
      while (world.compiled.length === 0) await new Promise(resolve => setImmediate(resolve))
      assert.equal(world.locks, 1)
      givenUp.abort()
      await assert.rejects(opening, code('CANCELLED'))
      // In this thread only what has ended lets go.
      if (kind === 'inline') arrive()
      for (let turn = 0; turn < 10; turn++) await new Promise(resolve => setImmediate(resolve))
      assert.equal(world.locks, 0)
      arrive()
      assert.ok(world.engines.every(engine => engine.closed))
    })

    it('cancels by signal and by time', async () => {
      const world = new World()
      const db = await open(world[kind])
      const controller = new AbortController()
      const waiting = db.query('wait', [], { signal: controller.signal })
      setTimeout(() => controller.abort('enough'), 5)
      await assert.rejects(waiting, code('CANCELLED', { cause: 'enough' }))
      await assert.rejects(db.query('wait', [], { timeoutMs: 5 }), code('TIMEOUT', { retryable: true }))
      await assert.rejects(db.query('q', [], { signal: AbortSignal.abort() }), code('CANCELLED'))
      // A change that went through in spite of the abort is reported as what it is.
      assert.deepEqual(await db.exec('commit late', [], { timeoutMs: 5 }), RECEIPT)
      assert.equal(world.engines.length, 1)
      await db.close()
    })

    it('does not wait for ever for an engine that ignores the cancellation, and says what is not known', async () => {
      const world = new World()
      const db = await open(world[kind])
      await assert.rejects(db.exec('hang', [], { timeoutMs: 5 }), (error: KalamError) => {
        code('TIMEOUT', { retryable: false })(error)
        return /not known/.test(error.hint ?? '')
      })
      assert.equal(world.engines.length, 1, 'it answered the cancellation, so it is not replaced')
      assert.equal((await db.query('q')).length, 1)
      await db.close()
    })

    it('prepares a statement once and runs it by its text, also on the next engine', async () => {
      const world = new World()
      const db = await open(world[kind])
      await assert.rejects(db.prepare('fail'), code('SYNTAX_ERROR', { sqlstate: '42601' }))
      await assert.rejects(db.prepare(1 as never), code('INVALID_OPTION'))
      const st = await db.prepare<{ id: bigint; name: string }>('q $1')
      assert.deepEqual(st.parameters, ['$1'])
      assert.deepEqual([...(await st.query(['a']))], [{ id: 1n, name: 'a' }])
      assert.equal((await st.exec(['b'])).rowsAffected, RECEIPT.rowsAffected)
      await assert.rejects(db.exec('trap'), code('INTERNAL_ERROR'))
      assert.equal((await st.query(['c'])).length, 1)
      assert.equal(world.engines.length, 2)
      st.close()
      st.close()
      await assert.rejects(st.query(['d']), code('CONNECTION_CLOSED'))
      await db.close()
    })

    it('replaces a trapped engine once and tells reads from changes', async () => {
      const world = new World()
      const db = await open(world[kind])
      const read = assert.rejects(db.query('select wait'), code('INTERNAL_ERROR', { retryable: true }))
      const write = assert.rejects(db.exec('update wait'), (error: KalamError) => {
        code('INTERNAL_ERROR', { retryable: false })(error)
        return /not known whether/.test(error.hint ?? '')
      })
      const exported = assert.rejects(db.export('SELECT wait'), code('INTERNAL_ERROR', { retryable: true }))
      const changing = 'WITH wait AS (SELECT 1) UPDATE t SET a = 1 RETURNING a'
      const changed = assert.rejects(db.export(changing), code('INTERNAL_ERROR', { retryable: false }))
      const trap = assert.rejects(db.exec('trap'), code('INTERNAL_ERROR', { retryable: false }))
      await Promise.all([read, write, exported, changed, trap])
      const results = await Promise.all([db.query('q'), db.query('q'), db.query('q')])
      assert.equal(results.length, 3)
      assert.equal(world.engines.length, 2)
      assert.ok(world.compiled.at(-1) instanceof WebAssembly.Module)
      assert.equal(world.locks, 1)
      await db.close()
      assert.equal(world.locks, 0)
    })

    it('never replaces an in-memory database by an empty one', async () => {
      const world = new World()
      const db = await open(world[kind], 'memory')
      assert.equal(world.locks, 0)
      await assert.rejects(db.exec('trap'), code('INTERNAL_ERROR'))
      await assert.rejects(db.query('q'), code('CONNECTION_CLOSED'))
      assert.equal(world.engines.length, 1)
      await db.close()
    })

    it('finishes what runs before it closes, and is closed then', async () => {
      const world = new World()
      const db = await open(world[kind])
      const running = db.query('q')
      const [rows] = await Promise.all([running, db.close(), db.close()])
      assert.equal(rows.length, 1)
      await assert.rejects(db.query('q'), code('CONNECTION_CLOSED', { sqlstate: '08003' }))
    })

    it('inserts objects and Arrow bytes without taking the caller’s buffer', async () => {
      const world = new World()
      const db = await open(world[kind])
      assert.deepEqual(await db.insert('t', [{ name: 'a', id: 1n }]), RECEIPT)
      assert.deepEqual(world.engine.inserted?.columns, ['id', 'name'])
      const large = new Uint8Array(1000)
      const view = large.subarray(10, 13).fill(9)
      await db.insert('t', view)
      assert.deepEqual(world.engine.inserted?.packed, new Uint8Array([9, 9, 9]))
      assert.equal(large.length, 1000)
      world.engine.inserted = undefined
      assert.equal((await db.insert('t', [])).rowsAffected, 0)
      await assert.rejects(db.insert('t', [{ id: 1, nope: 1 }]), code('COLUMN_NOT_FOUND'))
      await assert.rejects(db.insert('t', { id: 1 } as never), code('DATATYPE_MISMATCH'))
      assert.equal(world.engine.inserted, undefined)
      await db.close()
    })

    it('imports from every source, in order and with progress', async () => {
      const text = new TextEncoder().encode('id,name\n1,a\n')
      const stream = (): ReadableStream<Uint8Array> => new Blob([text]).stream() as ReadableStream<Uint8Array>
      const sources = {
        bytes: text,
        buffer: text.buffer,
        blob: new Blob([text]),
        stream: stream(),
        response: new Response(stream()),
        url: `data:text/csv,${encodeURIComponent('id,name\n1,a\n')}`,
      }
      for (const [name, source] of Object.entries(sources)) {
        const world = new World()
        const db = await open(world[kind])
        const seen: ImportProgress[] = []
        const result = await db.import('t', source, {
          format: 'csv',
          create: true,
          header: false,
          onProgress: p => seen.push(p),
        })
        assert.equal(result.rowsAffected, text.length, name)
        assert.deepEqual(new Uint8Array(world.engine.imported), text, name)
        assert.deepEqual(world.engine.importer_?.options, { format: 'csv', create: true, header: false })
        assert.deepEqual(
          seen.map(p => p.phase),
          ['read', 'write', 'done'],
          name,
        )
        assert.equal(seen.at(-1)?.rows, text.length)
        assert.equal(seen.at(-1)?.bytes, text.length)
        assert.equal(world.engine.importer_?.aborted, false)
        await db.close()
      }
      assert.equal(text.length, 12, 'the bytes are still the caller’s')
    })

    it('sends large sources in pieces', async () => {
      const world = new World()
      const db = await open(world[kind])
      const pieces: number[] = []
      const { engine } = world
      engine.importer = async () => ({
        push: async bytes => {
          pieces.push(bytes.length)
          return { bytes: 0, rows: 0 }
        },
        finish: async () => RECEIPT,
        abort: () => {},
      })
      const MiB = 1 << 20
      await db.import('t', new Uint8Array(9 * MiB), { format: 'csv' })
      assert.deepEqual(pieces.splice(0), [4 * MiB, 4 * MiB, MiB])
      await db.import('t', new Blob([new Uint8Array(5 * MiB)]), { format: 'csv' })
      assert.deepEqual(pieces.splice(0), [4 * MiB, MiB])
      await db.close()
    })

    it('aborts an import whose source or data fails, or that is cancelled', async () => {
      const world = new World()
      const db = await open(world[kind])
      const broken = new ReadableStream<Uint8Array>({
        pull: controller => controller.error(new Error('connection reset')),
      })
      await assert.rejects(db.import('t', broken, { format: 'csv' }), (error: KalamError) => {
        code('INVALID_DATA')(error)
        return /connection reset/.test(error.message)
      })
      await assert.rejects(db.import('t', new Response('no', { status: 404 })), code('INVALID_DATA'))
      await assert.rejects(db.import('t', new Uint8Array([65, 44, 66])), code('INVALID_OPTION'))
      await assert.rejects(db.import('t', 'relative.csv'), code('INVALID_OPTION'))
      await assert.rejects(db.import('t', 5 as never), code('INVALID_OPTION'))
      assert.equal(world.engine.importer_, undefined)

      world.engine.failPush = true
      await assert.rejects(
        db.import('t', new Uint8Array(9), { format: 'csv' }),
        code('INVALID_DATA', { message: 'line 3: bad row' }),
      )
      assert.equal(world.engine.lastImport().aborted, true)

      world.engine.failPush = false
      let cancelled = false
      const endless = new ReadableStream<Uint8Array>({
        start: controller => controller.enqueue(new Uint8Array(1 << 20)),
        pull: () => new Promise(() => {}),
        cancel: () => {
          cancelled = true
        },
      })
      const controller = new AbortController()
      const running = db.import('t', endless, {
        format: 'csv',
        signal: controller.signal,
        onProgress: () => controller.abort(),
      })
      await assert.rejects(running, code('CANCELLED'))
      assert.equal(world.engine.lastImport().aborted, true)
      assert.equal(world.engine.lastImport().finished, false)
      assert.equal(cancelled, true)
      await db.close()
    })
  })
}

describe('workers', () => {
  it('are replaced when they go deaf, but only after someone asked them to stop', async () => {
    const world = new World()
    const db = await open(world.remote)
    const other = assert.rejects(db.query('select hang'), code('INTERNAL_ERROR', { retryable: true }))
    await assert.rejects(db.query('deaf', [], { timeoutMs: 5 }), code('TIMEOUT'))
    await other
    assert.equal((await db.query('q')).length, 1)
    assert.equal(world.engines.length, 2)
    await db.close()
  })

  it('are replaced when they die, with the compiled module at hand', async () => {
    const world = new World()
    const db = await open(world.remote)
    const hanging = assert.rejects(db.exec('hang'), code('INTERNAL_ERROR', { retryable: false }))
    await new Promise(resolve => setTimeout(resolve, 5))
    world.deaths.at(-1)?.()
    await hanging
    assert.equal((await db.query('q')).length, 1)
    assert.equal(world.compiled.length, 2)
    assert.ok(world.compiled[1] instanceof WebAssembly.Module)
    await db.close()
  })

  it('report what cannot be sent', async () => {
    const world = new World()
    const db = await open(world.remote)
    await assert.rejects(db.query('q', [{ f: () => 1 } as never]), code('PARAMETER_TYPE'))
    assert.equal((await db.query('q')).length, 1)
    await db.close()
  })

  it('report the one answer that cannot be sent, and go on', async () => {
    const world = new World()
    const db = await open(world.remote)
    world.engine.prepare = async () => [(() => 1) as never]
    const [rows, failed] = await Promise.allSettled([db.query('q'), db.prepare('q')])
    assert.equal(rows.status, 'fulfilled')
    assert.ok(failed.status === 'rejected')
    code('INTERNAL_ERROR', /DataCloneError/)(failed.reason)
    assert.equal((await db.query('q')).length, 1)
    assert.equal(world.engines.length, 1)
    await db.close()
  })
})

describe('sessions of other users', () => {
  for (const kind of ['remote', 'inline'] as const) {
    it(`are told with every call (${kind})`, async () => {
      const world = new World()
      const db = await open(world[kind])
      const alice = await db.as('alice')
      await alice.query('SELECT 1')
      await alice.exec('SELECT 1')
      await alice.insert('t', [{ id: 1n, name: 'x' }])
      await alice.insert('t', new Uint8Array([1]))
      await alice.import('t', new Uint8Array([1]), { format: 'csv' })
      await alice.status()
      await (await alice.as('bob')).exec('SELECT 1')
      await db.exec('SELECT 1')
      // Each `as` asks in the session that it is called on whether that may act as the other user.
      assert.deepEqual(world.engine.sessions, [
        'run',
        'run as alice',
        'run as alice',
        'describe as alice',
        'insertPacked as alice',
        'insertArrow as alice',
        'importer as alice',
        'status as alice',
        'run as alice',
        'run as bob',
        'run',
      ])
      await db.close()
    })
  }

  it('end alone, and with the connection', async () => {
    const world = new World()
    const db = await open(world.remote)
    const [one, two] = [await db.as('alice'), await db.as('alice')]
    await one.close()
    await one.close()
    assert.deepEqual(world.engine.endedSessions, ['alice'])
    await assert.rejects(one.query('SELECT 1'), code('CONNECTION_CLOSED'))
    await assert.rejects(one.as('bob'), code('CONNECTION_CLOSED'))
    await two.query('SELECT 1')
    await db.query('SELECT 1')
    await db.close()
    await assert.rejects(two.query('SELECT 1'), code('CONNECTION_CLOSED'))
    await two.close()
  })

  it('are refused at once, and names are checked', async () => {
    const world = new World()
    const db = await open(world.remote)
    await assert.rejects(db.as('root'), code('INSUFFICIENT_PRIVILEGE'))
    for (const bad of ['', null, 7, undefined]) {
      await assert.rejects(db.as(bad as string), code('INVALID_NAME'))
      await assert.rejects(db.dropUser(bad as string), code('INVALID_NAME'))
    }
    await db.dropUser("al'ice")
    assert.equal(world.engine.log.at(-1), 'DROP USER IF EXISTS $1 CASCADE')
    await db.close()
  })
})
