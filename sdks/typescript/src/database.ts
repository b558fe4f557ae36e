// The connection that users hold.
//
// Invariant: it keeps no state of the database. Every call is a request to the client, which knows whether an engine
// lives; results are decoded and rows encoded here, in the caller's thread, so that the engine's is free for queries.

import { joined } from './bytes.js'
import { fromHere } from './engine/client.js'
import type { HostSource, Ops } from './engine/protocol.js'
import type { RunMode, RunResult } from './engine/surface.js'
import { KalamError } from './errors.js'
import { exportedFiles, packedRows } from './export.js'
import { type OpenedSource, openBytes, openResponse, openStream } from './import.js'
import { callOptions, invalid, rest } from './options.js'
import { decodeRows } from './packed/decode.js'
import { encodeRows, show } from './packed/encode.js'
import { checkParams, checkSql, templateToSql } from './params.js'
import { bytesIn, is } from './realm.js'
import { type Caller, checkMayOpenSession, runTransaction } from './transaction.js'
import type {
  CallOptions,
  ColumnInfo,
  Database,
  DatabaseStatus,
  Durability,
  ExecResult,
  ExportedFile,
  ExportOptions,
  ImportOptions,
  ImportProgress,
  ImportSource,
  Int64Mode,
  Param,
  Params,
  PreparedStatement,
  Row,
  Rows,
  StreamOptions,
  Transaction,
  TransactionOptions,
} from './types.js'

/** Checks the name of a user: the scope of its rows is named by it. */
export function checkUser(user: unknown): string {
  if (typeof user === 'string' && user !== '') return user
  const found = user === '' ? 'empty' : user === null ? 'null' : typeof user
  throw new KalamError({ code: 'INVALID_NAME', message: `the name of the user is ${found}, expected text` })
}

/** A session of another user within a connection. */
interface Scope {
  user: string
  session: string
}

/** That of whoever opened the database. */
const OWN: Partial<Scope> = {}

let sessions = 0

/** Options of `import` beside those of every call. */
const IMPORT: readonly string[] = ['format', 'create', 'header', 'delimiter', 'onProgress']

/** Rows of one file of `exportFiles`, unless the caller says. */
const ROWS_PER_FILE = 1_000_000

/** The one implementation of {@link Database}. */
export class Connection implements Database {
  private ended = false

  constructor(
    readonly name: string,
    private readonly client: Caller,
    private readonly int64: Int64Mode,
    private readonly durability: Durability,
    private readonly scope?: Scope,
  ) {
    // A tag is often taken out of its object: const { sql } = db
    this.sql = this.sql.bind(this)
  }

  private run(
    mode: RunMode,
    sql: string,
    params: Params | undefined,
    options: CallOptions | undefined,
  ): Promise<RunResult> {
    const readOnly = checkSql(sql)
    const args: Ops['run']['args'] = { ...this.session(), sql, params: checkParams(params), mode }
    if (options !== undefined && options !== null) {
      Object.assign(args, callOptions(options), options.timeoutMs !== undefined && { timeoutMs: options.timeoutMs })
    }
    return this.client.call('run', args, options, { readOnly, untraced: true })
  }

  /** Which session a call belongs to. */
  private session(): Partial<Scope> {
    if (!this.ended) return this.scope ?? OWN
    throw new KalamError({
      code: 'CONNECTION_CLOSED',
      message: `the session of '${this.scope?.user}' in database '${this.name}' is closed`,
    })
  }

  async exec(sql: string, params?: Params, options?: CallOptions): Promise<ExecResult> {
    try {
      return (await this.run('exec', sql, params, options)).receipt as ExecResult
    } catch (error) {
      throw fromHere(error)
    }
  }

  async query<T = Row>(sql: string, params?: Params, options?: CallOptions): Promise<Rows<T>> {
    try {
      const result = await this.run('query', sql, params, options)
      return withColumns<T>(this.rowsOf<T>(result), result.columns ?? [])
    } catch (error) {
      throw fromHere(error)
    }
  }

  private rowsOf<T>({ columns = [], packed = [] }: Pick<RunResult, 'columns' | 'packed'>): T[] {
    return decodeRows(packed, columns, this.int64) as T[]
  }

  async queryOne<T = Row>(sql: string, params?: Params, options?: CallOptions): Promise<T | undefined> {
    try {
      return this.rowsOf<T>(await this.run('query', sql, params, options))[0]
    } catch (error) {
      throw fromHere(error)
    }
  }

  async sql<T = Row>(strings: TemplateStringsArray, ...values: Param[]): Promise<Rows<T>> {
    return this.query<T>(templateToSql(strings, values), values)
  }

  async prepare<T = Row>(sql: string, options?: CallOptions): Promise<PreparedStatement<T>> {
    callOptions(options)
    const parameters = await this.client.call('prepare', { sql: checkSql(sql) }, options, { readOnly: true })
    return new Prepared<T>(this, sql, parameters)
  }

  async arrow(sql: string, params?: Params, options?: CallOptions): Promise<Uint8Array> {
    try {
      return (await this.run('arrow', sql, params, options)).ipc ?? new Uint8Array()
    } catch (error) {
      throw fromHere(error)
    }
  }

  async insert(
    table: string,
    rows: readonly object[] | Uint8Array | ArrayBuffer,
    options?: CallOptions,
  ): Promise<ExecResult> {
    const durability = callOptions(options)
    checkTable(table)
    const ipc = bytesIn(rows)
    if (ipc !== undefined) return this.insertArrow(table, ipc, options, durability)
    if (!Array.isArray(rows)) {
      throw new KalamError({
        code: 'DATATYPE_MISMATCH',
        message: `insert into ${table}: rows is ${show(rows)}, expected an array of objects or Arrow IPC bytes`,
      })
    }
    // Asked for each time: the table may have been altered since. The engine checks again under its own snapshot.
    const started = Date.now()
    const { columns: known } = await this.client.call('describe', { ...this.session(), table }, options, {
      readOnly: true,
    })
    const { columns, buffer } = encodeRows(table, known, rows)
    if (rows.length === 0) {
      return { rowsAffected: 0, seq: 0n, durability: options?.durability ?? this.durability }
    }
    return receipt(
      await this.client.call(
        'insertPacked',
        { ...this.session(), table, columns, packed: buffer, ...durability },
        rest(options, started),
        {
          transfer: [buffer.buffer],
        },
      ),
    )
  }

  private async insertArrow(
    table: string,
    bytes: Uint8Array,
    options: CallOptions | undefined,
    durability: { durability?: Durability },
  ): Promise<ExecResult> {
    const session = this.session()
    const result = await this.client.call(
      'insertArrow',
      // A copy of exactly these bytes: cloning a view would copy all of the buffer under it.
      link => ({ ...session, table, ipc: link.remote ? bytes.slice() : bytes, ...durability }),
      options,
    )
    return receipt(result)
  }

  async import(table: string, source: ImportSource, options?: ImportOptions): Promise<ExecResult> {
    const durability = callOptions(options, IMPORT)
    const { format, create, header, delimiter, onProgress } = options ?? {}
    checkTable(table)
    const { place, opened } = takeSource(source)
    try {
      const result = await this.client.call(
        'import',
        {
          ...this.session(),
          table,
          source: place,
          ...(format !== undefined && { format }),
          ...(create !== undefined && { create }),
          ...(header !== undefined && { header }),
          ...(delimiter !== undefined && { delimiter }),
          ...durability,
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

  async *stream<T = Row>(sql: string, params?: Params, options?: StreamOptions): AsyncGenerator<Rows<T>> {
    for await (const { columns, piece } of packedRows(this.client, this.session(), sql, params, options ?? {})) {
      yield withColumns<T>(this.rowsOf<T>({ columns, packed: piece }), columns)
    }
  }

  async export(source: string, options: Omit<ExportOptions, 'rowsPerFile'> = {}): Promise<Uint8Array> {
    for await (const { bytes } of exportedFiles(this.client, this.session(), source, {
      ...options,
      rowsPerFile: undefined,
    })) {
      return bytes
    }
    return new Uint8Array()
  }

  exportFiles(source: string, options: ExportOptions = {}): AsyncGenerator<ExportedFile> {
    return exportedFiles(this.client, this.session(), source, { rowsPerFile: ROWS_PER_FILE, ...options })
  }

  async backup(options?: CallOptions): Promise<Uint8Array> {
    callOptions(options)
    const { chunks } = await this.client.call('backup', {}, options, { readOnly: true })
    return joined(chunks)
  }

  async transaction<T>(body: (tx: Transaction) => Promise<T> | T, options?: TransactionOptions): Promise<T> {
    const within = (client: Caller) => new Connection(this.name, client, this.int64, this.durability, this.scope)
    callOptions(options, ['retries', 'readOnly'])
    return runTransaction(this.client, this.session(), within, body, options ?? {})
  }

  async status(options?: CallOptions): Promise<DatabaseStatus> {
    callOptions(options)
    const state = await this.client.call('status', this.session(), options, { readOnly: true })
    const storage = state.storage === 'indexeddb' ? globalThis.navigator?.storage : undefined
    const [persisted, estimate] = await Promise.all([
      storage?.persisted?.().catch(() => false),
      storage?.estimate?.().catch(() => undefined),
    ])
    const usage = state.usage ?? estimate?.usage
    const quota = state.quota ?? estimate?.quota
    return {
      role: 'single',
      ...state,
      persisted: persisted ?? state.storage === 'host',
      ...(usage !== undefined && { usage, quota }),
    }
  }

  async as(user: string): Promise<Database> {
    this.session()
    checkMayOpenSession(this.client)
    // Unique among all connections of the database, whichever tab they are in.
    sessions += 1
    const scope = { user: checkUser(user), session: `${sessions}-${Math.random().toString(36).slice(2)}` }
    const session = new Connection(this.name, this.client, this.int64, this.durability, scope)
    // Whether it may is known now, not with the first query; and it is this session that has to be allowed to.
    await this.run('exec', 'EXECUTE AS USER $1 (SELECT 1)', [scope.user], undefined)
    return session
  }

  async dropUser(user: string, options?: CallOptions): Promise<void> {
    await this.run('exec', 'DROP USER IF EXISTS $1 CASCADE', [checkUser(user)], options)
  }

  close(): Promise<void> {
    return this.scope === undefined ? this.client.close() : this.endSession(this.scope)
  }

  private async endSession(scope: Scope): Promise<void> {
    if (this.ended) return
    this.ended = true
    try {
      await this.client.call('endSession', scope, undefined)
    } catch (error) {
      // A session ends with its engine as well.
      if (KalamError.from(error).code !== 'CONNECTION_CLOSED') throw error
    }
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

/** Checks the name of a table; what it names is looked up by the engine. */
function checkTable(table: unknown): void {
  if (typeof table === 'string' && table !== '') return
  throw new KalamError({ code: 'INVALID_NAME', message: `the name of the table is ${show(table)}, expected text` })
}

/** How a source gets to the host: a handle that it reads by itself, or pieces that are read here. */
function takeSource(source: ImportSource): { place: HostSource; opened?: OpenedSource } {
  if (typeof source === 'string' || is(source, 'URL')) return { place: { kind: 'url', url: absolute(source) } }
  if (is(source, 'Blob') || is(source, 'File')) {
    const { name } = source as Partial<File>
    return { place: { kind: 'blob', blob: source, ...(name !== undefined && { name }) } }
  }
  let opened: OpenedSource
  if (is(source, 'Response')) opened = openResponse(source)
  else if (is(source, 'ReadableStream')) opened = openStream(source)
  else {
    const bytes = bytesIn(source)
    if (bytes === undefined) {
      throw invalid(
        `cannot import from ${(source as object)?.constructor?.name ?? String(source)}`,
        'Pass a File, a Blob, a Response, a ReadableStream, bytes, or an address.',
      )
    }
    opened = openBytes(bytes)
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
