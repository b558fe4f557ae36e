// The connection that users hold.
//
// Invariant: it keeps no state of the database. Every call is a request to the client, which knows whether an engine
// lives; results are decoded and rows encoded here, in the caller's thread, so that the engine's is free for queries.

import type { EngineClient } from './engine/client.js'
import type { HostSource } from './engine/protocol.js'
import { KalamError } from './errors.js'
import { type OpenedSource, openBytes, openResponse, openStream } from './import.js'
import { decodeRows } from './packed/decode.js'
import { encodeRows } from './packed/encode.js'
import { checkParams, checkSql, isReadOnly, templateToSql } from './params.js'
import type {
  CallOptions,
  ColumnInfo,
  Database,
  DatabaseStatus,
  Durability,
  ExecResult,
  ImportOptions,
  ImportProgress,
  ImportSource,
  Int64Mode,
  Param,
  Params,
  PreparedStatement,
  Row,
  Rows,
} from './types.js'

const DURABILITIES: readonly unknown[] = ['memory', 'relaxed', 'strict', undefined]

/** Checks a durability and gives it as a property, or nothing. */
export function durabilityOf(options: { durability?: Durability | undefined } | undefined): {
  durability?: Durability
} {
  const durability = options?.durability
  if (!DURABILITIES.includes(durability)) {
    throw new KalamError({
      code: 'INVALID_OPTION',
      message: `durability is '${String(durability)}', expected 'memory', 'relaxed' or 'strict'`,
    })
  }
  return durability === undefined ? {} : { durability }
}

/** The one implementation of {@link Database}. */
export class Connection implements Database {
  constructor(
    readonly name: string,
    private readonly client: EngineClient,
    private readonly int64: Int64Mode,
    private readonly durability: Durability,
  ) {
    // A tag is often taken out of its object: const { sql } = db
    this.sql = this.sql.bind(this)
  }

  private async run(
    mode: 'exec' | 'query' | 'arrow',
    sql: string,
    params: Params | undefined,
    options: CallOptions | undefined,
  ) {
    const text = checkSql(sql)
    const args = {
      sql: text,
      params: checkParams(params),
      mode,
      ...durabilityOf(options),
      ...(options?.timeoutMs !== undefined && { timeoutMs: options.timeoutMs }),
    }
    return this.client.call('run', args, options, { readOnly: isReadOnly(text) })
  }

  async exec(sql: string, params?: Params, options?: CallOptions): Promise<ExecResult> {
    return receipt(await this.run('exec', sql, params, options))
  }

  async query<T = Row>(sql: string, params?: Params, options?: CallOptions): Promise<Rows<T>> {
    const { columns = [], packed = [] } = await this.run('query', sql, params, options)
    return withColumns<T>(decodeRows(packed, columns, this.int64) as T[], columns)
  }

  async queryOne<T = Row>(sql: string, params?: Params, options?: CallOptions): Promise<T | undefined> {
    return (await this.query<T>(sql, params, options))[0]
  }

  async sql<T = Row>(strings: TemplateStringsArray, ...values: Param[]): Promise<Rows<T>> {
    return this.query<T>(templateToSql(strings, values), values)
  }

  async prepare<T = Row>(sql: string, options?: CallOptions): Promise<PreparedStatement<T>> {
    const parameters = await this.client.call('prepare', { sql: checkSql(sql) }, options, { readOnly: true })
    return new Prepared<T>(this, sql, parameters)
  }

  async arrow(sql: string, params?: Params, options?: CallOptions): Promise<Uint8Array> {
    const { ipc } = await this.run('arrow', sql, params, options)
    return ipc ?? new Uint8Array()
  }

  async insert(
    table: string,
    rows: readonly object[] | Uint8Array | ArrayBuffer,
    options?: CallOptions,
  ): Promise<ExecResult> {
    const durability = durabilityOf(options)
    if (rows instanceof Uint8Array || rows instanceof ArrayBuffer) {
      return this.insertArrow(table, rows instanceof Uint8Array ? rows : new Uint8Array(rows), options)
    }
    if (!Array.isArray(rows)) {
      throw new KalamError({
        code: 'DATATYPE_MISMATCH',
        message: `insert into ${table}: rows is ${typeof rows}, expected an array of objects or Arrow IPC bytes`,
      })
    }
    // Asked for each time: the table may have been altered since. The engine checks again under its own snapshot.
    const started = Date.now()
    const { columns: known } = await this.client.call('describe', { table }, options, { readOnly: true })
    const { columns, buffer } = encodeRows(table, known, rows)
    if (rows.length === 0) {
      return { rowsAffected: 0, seq: 0n, durability: options?.durability ?? this.durability }
    }
    return receipt(
      await this.client.call(
        'insertPacked',
        { table, columns, packed: buffer, ...durability },
        rest(options, started),
        {
          transfer: [buffer.buffer],
        },
      ),
    )
  }

  private async insertArrow(table: string, bytes: Uint8Array, options: CallOptions | undefined): Promise<ExecResult> {
    const result = await this.client.call(
      'insertArrow',
      // A copy of exactly these bytes: cloning a view would copy all of the buffer under it.
      link => ({ table, ipc: link.remote ? bytes.slice() : bytes, ...durabilityOf(options) }),
      options,
    )
    return receipt(result)
  }

  async import(table: string, source: ImportSource, options: ImportOptions = {}): Promise<ExecResult> {
    const { format, create, header, delimiter, onProgress } = options
    const { place, opened } = takeSource(source)
    try {
      const result = await this.client.call(
        'import',
        {
          table,
          source: place,
          ...(format !== undefined && { format }),
          ...(create !== undefined && { create }),
          ...(header !== undefined && { header }),
          ...(delimiter !== undefined && { delimiter }),
          ...durabilityOf(options),
          progress: onProgress !== undefined,
        },
        options,
        {
          onProgress: onProgress && (progress => onProgress(progress as ImportProgress)),
          feed: opened && (() => opened.next()),
        },
      )
      return receipt(result)
    } catch (error) {
      opened?.cancel?.()
      throw error
    }
  }

  async backup(options?: CallOptions): Promise<Uint8Array> {
    const { chunks } = await this.client.call('backup', {}, options, { readOnly: true })
    const whole = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0))
    let at = 0
    for (const chunk of chunks) {
      whole.set(chunk, at)
      at += chunk.length
    }
    return whole
  }

  async status(options?: CallOptions): Promise<DatabaseStatus> {
    const state = await this.client.call('status', {}, options, { readOnly: true })
    const storage = state.storage === 'indexeddb' ? globalThis.navigator?.storage : undefined
    const [persisted, estimate] = await Promise.all([
      storage?.persisted?.().catch(() => false),
      storage?.estimate?.().catch(() => undefined),
    ])
    const usage = state.usage ?? estimate?.usage
    const quota = state.quota ?? estimate?.quota
    return { role: 'single', ...state, persisted: persisted ?? state.storage === 'host', ...(usage !== undefined && { usage, quota }) }
  }

  close(): Promise<void> {
    return this.client.close()
  }

  declare [Symbol.asyncDispose]: () => Promise<void>
}

/** The one implementation of {@link PreparedStatement}: the text, which the engine keeps parsed and planned. */
class Prepared<T> implements PreparedStatement<T> {
  private closed = false

  constructor(
    private readonly db: Connection,
    readonly sql: string,
    readonly parameters: readonly string[],
  ) {}

  private check(): void {
    if (this.closed) throw new KalamError({ code: 'CONNECTION_CLOSED', message: 'the prepared statement is closed' })
  }

  async query(params?: Params, options?: CallOptions): Promise<Rows<T>> {
    this.check()
    return this.db.query<T>(this.sql, params, options)
  }

  async exec(params?: Params, options?: CallOptions): Promise<ExecResult> {
    this.check()
    return this.db.exec(this.sql, params, options)
  }

  close(): void {
    this.closed = true
  }

  declare [Symbol.dispose]: () => void
}

Object.defineProperty(Prepared.prototype, Symbol.dispose ?? Symbol.for('Symbol.dispose'), {
  value(this: Prepared<unknown>) {
    this.close()
  },
  configurable: true,
  writable: true,
})

// Browsers without `Symbol.asyncDispose` have the symbol that compilers put in its place.
Object.defineProperty(Connection.prototype, Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose'), {
  value(this: Connection) {
    return this.close()
  },
  configurable: true,
  writable: true,
})

function receipt({ rowsAffected, seq, durability }: ExecResult): ExecResult {
  return { rowsAffected, seq, durability }
}

function withColumns<T>(rows: T[], columns: readonly ColumnInfo[]): Rows<T> {
  Object.defineProperty(rows, 'columns', { value: columns, enumerable: false })
  return rows as Rows<T>
}

/** The options of the second half of a call: what the first half took is gone from the time limit. */
function rest(options: CallOptions | undefined, started: number): CallOptions | undefined {
  if (options?.timeoutMs === undefined) return options
  return { ...options, timeoutMs: Math.max(1, options.timeoutMs - (Date.now() - started)) }
}

/** How a source gets to the host: a handle that it reads by itself, or pieces that are read here. */
function takeSource(source: ImportSource): { place: HostSource; opened?: OpenedSource } {
  if (typeof source === 'string' || source instanceof URL) return { place: { kind: 'url', url: absolute(source) } }
  if (source instanceof Blob) {
    const { name } = source as Partial<File>
    return { place: { kind: 'blob', blob: source, ...(name !== undefined && { name }) } }
  }
  let opened: OpenedSource
  if (source instanceof Response) opened = openResponse(source)
  else if (source instanceof ReadableStream) opened = openStream(source)
  else if (source instanceof Uint8Array) opened = openBytes(source)
  else if (source instanceof ArrayBuffer) opened = openBytes(new Uint8Array(source))
  else {
    throw new KalamError({
      code: 'INVALID_OPTION',
      message: `cannot import from ${(source as object)?.constructor?.name ?? String(source)}`,
      hint: 'Pass a File, a Blob, a Response, a ReadableStream, bytes, or an address.',
    })
  }
  const { name, contentType, totalBytes } = opened
  return {
    place: {
      kind: 'fed',
      ...(name !== undefined && { name }),
      ...(contentType !== undefined && { contentType }),
      ...(totalBytes !== undefined && { totalBytes }),
    },
    opened,
  }
}

function absolute(address: string | URL): string {
  try {
    return new URL(address, globalThis.document?.baseURI ?? globalThis.location?.href).href
  } catch (cause) {
    throw new KalamError({
      code: 'INVALID_OPTION',
      message: `'${String(address)}' is not an address that can be fetched`,
      hint: "There is no page that it could be relative to; a file on disk is new URL('file:///…').",
      cause,
    })
  }
}
