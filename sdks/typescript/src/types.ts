/// <reference lib="esnext.disposable" preserve="true" />
// The public types. They hold no code.

import type { HostStorage } from './storage.js'
import type { Timestamp } from './timestamp.js'

/** What a commit promises: kept in memory only, handed to the operating system, or flushed to disk. */
export type Durability = 'memory' | 'relaxed' | 'strict'

/** How BIGINT values arrive: exact as `bigint`, as `number` (a value that is not safe is an error), or as text. */
export type Int64Mode = 'bigint' | 'number' | 'string'

/**
 * What a user may do. `user` uses data: its own rows of USER tables, STREAM tables, public SHARED tables. `service` may
 * also act for users and use restricted SHARED tables. `dba` may also change definitions and users, use private SHARED
 * tables and read every system table. `system` may do everything.
 *
 * Roles are guard rails for honest code on one device, not a security boundary: script on the same origin can open the
 * database itself.
 */
export type Role = 'user' | 'service' | 'dba' | 'system'

/** A JSON value, as JSON columns give it and as parameters accept it. */
export type JsonValue = null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue }

/**
 * A value as a query returns it: BIGINT `bigint` (see `int64`) · INT, SMALLINT, DOUBLE, FLOAT `number` · DECIMAL,
 * TEXT, TIME, UUID, FILE `string` · BOOLEAN `boolean` · BYTES `Uint8Array` · DATE, TIMESTAMP, DATETIME `Date` (with
 * microseconds a {@link Timestamp}, which is a `Date` too) · JSON its parsed value · EMBEDDING `Float32Array` · NULL `null`.
 */
export type Value = null | boolean | number | bigint | string | Date | Timestamp | Uint8Array | Float32Array | JsonValue

/** A row as a plain object, keyed by column name. Of two columns with one name the last one stays. */
export type Row = Record<string, Value>

/** A value that may stand for `$n`: the same types that queries return; plain objects and arrays are JSON. */
export type Param = Value | readonly unknown[] | JsonObject

/**
 * An object that stands for its JSON form. Promises (that nobody awaited), functions, Maps and Sets are objects for
 * TypeScript too, and no values: they are told by what they all can do.
 */
export type JsonObject = object & {
  readonly then?: never
  readonly bind?: never
  readonly forEach?: never
}

/** Parameters of a statement: an array for `$1`, `$2`, …, or an object for `$name`. */
export type Params = readonly Param[] | { readonly [name: string]: Param }

/** A column of a result or a table. */
export interface ColumnInfo {
  /** Name, as it stands in the schema or after AS. */
  name: string
  /** SQL type, e.g. `BIGINT`, `DECIMAL(10,2)`, `EMBEDDING(3)`. */
  type: string
  /** Whether NULL may occur. */
  nullable: boolean
}

/** Rows of a query; `columns` is not enumerable, so the array compares, spreads and serialises like any other. */
export type Rows<T = Row> = T[] & {
  /** Names and types of the columns, in order. */
  readonly columns: readonly ColumnInfo[]
}

/** The receipt of a change. */
export interface ExecResult {
  /** Rows inserted, updated or deleted, summed over the statements. */
  rowsAffected: number
  /** The `_seq` that the change brought the database to; `0n` when nothing was written. */
  seq: bigint
  /** What was promised when the call returned. */
  durability: Durability
}

/** Options of every call. */
export interface CallOptions {
  /** Cancels the call: it rejects with `CANCELLED`, the signal's reason as its `cause`. */
  signal?: AbortSignal | undefined
  /** Time limit in milliseconds; beyond it the call rejects with `TIMEOUT`. */
  timeoutMs?: number | undefined
  /** Durability of this call's commits; the connection's by default. */
  durability?: Durability | undefined
}

/** Progress of `connect`: fetching and compiling the engine, then opening the database. */
export interface ConnectProgress {
  /** What is going on. `ready` is always the last. */
  phase: 'download' | 'compile' | 'open' | 'ready'
  /** Bytes of the engine received so far. */
  bytes: number
  /** Bytes expected, if the server tells (it does not when it compresses the answer). */
  totalBytes?: number | undefined
}

/** Where the engine's wasm comes from: an address, a response, or a compiled module. */
export type WasmSource = string | URL | Response | WebAssembly.Module

/** Options of {@link connect}. */
export interface ConnectOptions {
  /** Name of the database. With `path` it is `default` when left out. */
  name?: string | undefined
  /**
   * Where the data lives. `indexeddb` (the default where IndexedDB exists), `memory` (private to the connection and
   * gone when it closes; the default elsewhere, without `path`), or an object that keeps the bytes, such as the files
   * of `kalamdb/node`. With such an object the engine runs in this thread.
   */
  storage?: 'indexeddb' | 'memory' | HostStorage | undefined
  /**
   * Node, Deno and Bun: the folder that databases lie in, made if it is not there. Each has a folder of its own in it,
   * by its name; one process at a time can open it.
   */
  path?: string | undefined
  /**
   * A backup (see `Database.backup`) to restore. The database must be new: `DATABASE_EXISTS` if it is not,
   * `DATA_CORRUPTED`, `INVALID_DATA` or `UNSUPPORTED_FORMAT` if the backup cannot be read; then nothing is restored.
   */
  restore?: Uint8Array | undefined
  /**
   * Where the engine runs: `true` (the default where workers exist) in a dedicated worker, `false` in this thread, or
   * a function that makes the worker, for bundlers that do not follow `new Worker(new URL(…))`:
   * `() => new Worker(new URL('kalamdb/worker', import.meta.url), { type: 'module' })`.
   */
  worker?: boolean | (() => Worker) | undefined
  /** User whose rows of USER tables this connection sees, `default` by default. */
  user?: string | undefined
  /** What this connection may do: everything by default. A guard rail, not a security boundary; see {@link Role}. */
  role?: Role | undefined
  /** Name of this installation: letters, digits and '-', at most 64. Generated and kept when left out. */
  nodeId?: string | undefined
  /** Durability of commits, `relaxed` by default; also per call. */
  durability?: Durability | undefined
  /** How BIGINT arrives, `bigint` by default. */
  int64?: Int64Mode | undefined
  /** A transaction that runs no statement for so many milliseconds is rolled back: 30 000 by default. */
  transactionTimeoutMs?: number | undefined
  /**
   * Bytes that the engine may use for rows, caches and queries together; by default an eighth of the device's memory,
   * 160 MB to 1 GB, or 640 MB where it is not told. A table larger than it works: its rows are written to segments, and
   * read from there piece by piece.
   */
  memoryBudget?: number | undefined
  /**
   * Bytes of it that queries, changes and imports may use together, seven tenths by default; what goes beyond ends with
   * `OUT_OF_MEMORY`.
   */
  memoryLimit?: number | undefined
  /** The engine's wasm, where the bundler needs help; by default the file in the package. */
  wasm?: WasmSource | undefined
  /** Told about the engine's download and start-up. */
  onProgress?: ((progress: ConnectProgress) => void) | undefined
  /** Gives up connecting. */
  signal?: AbortSignal | undefined
}

/** Options of {@link deleteDatabase}. */
export type DeleteOptions = Pick<ConnectOptions, 'worker' | 'wasm' | 'signal' | 'path'>

/** A row of the report of {@link rescue}. */
export interface RescueFinding {
  /** What was looked at. */
  object: string
  /** `damaged` and `orphaned` things are missing in what was rescued. */
  status: 'ok' | 'damaged' | 'orphaned'
  /** How much of it there is, or what is wrong. */
  detail: string
}

/** What {@link rescue} gives. */
export interface Rescued {
  /** A backup of everything that can be read: `connect({ restore })` takes it. */
  bytes: Uint8Array
  /** What was found, and what is missing. */
  report: RescueFinding[]
}

/** Formats that `import` reads. `json` is an array of objects, `ndjson` one object per line. */
export type ImportFormat = 'parquet' | 'csv' | 'json' | 'ndjson' | 'arrow'

/** What `import` reads from. A string or URL is an address to fetch. */
export type ImportSource = Blob | Response | ReadableStream<Uint8Array> | Uint8Array | ArrayBuffer | URL | string

/** Progress of `import`, about ten times a second and once at the end. */
export interface ImportProgress {
  /** `read`: bytes go to the engine; `write`: the engine decodes and commits; `done`: always the last. */
  phase: 'read' | 'write' | 'done'
  /** Bytes read so far. */
  bytes: number
  /** Bytes of the source, if known. */
  totalBytes?: number | undefined
  /** Rows decoded so far. */
  rows: number
  /** Rows of the source, if known (Parquet tells). */
  totalRows?: number | undefined
}

/** Options of `import`. */
export interface ImportOptions extends CallOptions {
  /** Format; by default detected from the content, the name or the content type. */
  format?: ImportFormat | undefined
  /** Create the table from the source's columns when it does not exist. */
  create?: boolean | undefined
  /**
   * CSV: whether the first line holds the column names (the default). Nothing between two separators is NULL, `""` an empty
   * text (in columns of other types NULL too).
   */
  header?: boolean | undefined
  /** CSV: the separator, `,` by default (a tab for `.tsv`). */
  delimiter?: string | undefined
  /** Told how far it is. */
  onProgress?: ((progress: ImportProgress) => void) | undefined
}

/** Options of `stream`. */
export interface StreamOptions extends CallOptions {
  /** Rows of one piece, 1000 by default; the last one may have fewer. */
  batchSize?: number | undefined
}

/** Options of `export` and `exportFiles`. */
export interface ExportOptions extends CallOptions {
  /** Format, `parquet` by default. `json` is an array of objects, `ndjson` one object per line. */
  format?: ImportFormat | undefined
  /** Parameters of the query. */
  params?: Params | undefined
  /** `exportFiles`: rows of one file, a million by default. */
  rowsPerFile?: number | undefined
}

/** A file of `exportFiles`. */
export interface ExportedFile {
  /** `part-00000.parquet`, `part-00001.parquet`, … */
  name: string
  /** What is in it. */
  bytes: Uint8Array
}

/** What `status` tells. */
export interface DatabaseStatus {
  /** `single`: this connection owns the engine. */
  role: 'single'
  /** Where the data lives; `host` is storage that was supplied, files among them. */
  storage: 'indexeddb' | 'memory' | 'host'
  /** Whether the browser promised not to evict the origin's data. */
  persisted: boolean
  /** Version of the engine. */
  version: string
  /** Name of this installation. */
  nodeId: string
  /** User of this connection, if any. */
  user?: string | undefined
  /** Role of that user. */
  userRole?: Role | undefined
  /** Bytes that the origin's storage uses, if known. */
  usage?: number | undefined
  /** Bytes that the origin may use, if known. */
  quota?: number | undefined
  /** Records in the storage. */
  records: number
  /** Bytes in those records. */
  bytes: number
  /** Memory in bytes: the whole wasm memory, rows in the hot tier, and what running queries hold. */
  memory: { wasm: number; hotRows: number; hotBytes: number; query: number }
  /** Commits since the engine started, and the storage transactions that they went into together. */
  log: { commits: number; groups: number }
}

/** A statement that {@link Database.prepare} has parsed. */
export interface PreparedStatement<T = Row> {
  /** Its text. */
  readonly sql: string

  /** Its parameters as they are written: `$1`, `$name`. */
  readonly parameters: readonly string[]

  /** Runs it and gives its rows as plain objects. */
  query(params?: Params, options?: CallOptions): Promise<Rows<T>>

  /** Runs it and gives the receipt. */
  exec(params?: Params, options?: CallOptions): Promise<ExecResult>

  /** Gives it up; `CONNECTION_CLOSED` for whoever runs it afterwards. Calling it again is harmless. */
  close(): void

  /** `using st = await db.prepare(…)` closes at the end of the block. */
  [Symbol.dispose](): void
}

/** Options of `transaction`. */
export interface TransactionOptions extends CallOptions {
  /** How often it is run again when another writer was first, 3 by default. */
  retries?: number | undefined
  /** Refuses changes. */
  readOnly?: boolean | undefined
}

/** What the function of a transaction works with. */
export type Transaction = Pick<Database, 'name' | 'exec' | 'query' | 'queryOne' | 'sql' | 'arrow' | 'insert' | 'import'>

/** A connection to a database; {@link connect} makes one. Calls may overlap; each is answered on its own. */
export interface Database {
  /** Name of the database. */
  readonly name: string

  /** Runs one or several statements and gives the summed receipt. Rows that they return are dropped. */
  exec(sql: string, params?: Params, options?: CallOptions): Promise<ExecResult>

  /** Runs a statement and gives its rows as plain objects; of several statements the last one's. */
  query<T = Row>(sql: string, params?: Params, options?: CallOptions): Promise<Rows<T>>

  /** The first row of a query, or `undefined` when there is none. */
  queryOne<T = Row>(sql: string, params?: Params, options?: CallOptions): Promise<T | undefined>

  /** Tagged template: the values become parameters `$1`, `$2`, …, never text. */
  sql<T = Row>(strings: TemplateStringsArray, ...values: Param[]): Promise<Rows<T>>

  /**
   * Parses a statement now and runs it later, as often as wanted; what does not parse fails here. What its names mean
   * is decided at each run. The engine keeps parsed statements and plans by their text anyway, so this is as fast as
   * running the same text again; it survives a restart of the engine.
   */
  prepare<T = Row>(sql: string, options?: CallOptions): Promise<PreparedStatement<T>>

  /** Runs a query and gives its rows as the bytes of an Arrow IPC stream. */
  arrow(sql: string, params?: Params, options?: CallOptions): Promise<Uint8Array>

  /**
   * Inserts rows as one atomic statement: objects keyed by column name, or the bytes of an Arrow IPC stream.
   *
   * The columns are the keys that carry a value other than `undefined` in any row. A column that no row names takes
   * its default; where only some rows name it, the others get NULL. Values are taken as queries return them; TEXT
   * forms are accepted for BIGINT, DECIMAL, DATE, TIMESTAMP, DATETIME, TIME and UUID.
   *
   * Errors: `TABLE_NOT_FOUND`, `COLUMN_NOT_FOUND` for an unknown key, `DATATYPE_MISMATCH` and its like with column
   * and row, and what the table's constraints raise. After any of them nothing of the call is visible.
   */
  insert(table: string, rows: readonly object[] | Uint8Array | ArrayBuffer, options?: CallOptions): Promise<ExecResult>

  /**
   * Imports a file as one atomic statement: nothing is visible before all of it is durable.
   *
   * Errors: `INVALID_DATA` for a source that cannot be read or decoded, `INVALID_OPTION` when the format cannot be
   * told, `CANCELLED` after an abort. After any of them nothing of the import stays.
   */
  import(table: string, source: ImportSource, options?: ImportOptions): Promise<ExecResult>

  /**
   * Runs a query and gives its rows piece by piece, all of one snapshot. Breaking the loop off ends the query.
   *
   * `for await (const rows of db.stream('SELECT * FROM big')) …`
   */
  stream<T = Row>(sql: string, params?: Params, options?: StreamOptions): AsyncGenerator<Rows<T>>

  /** A table or the result of a query as the bytes of one file. */
  export(source: string, options?: Omit<ExportOptions, 'rowsPerFile'>): Promise<Uint8Array>

  /**
   * A table or the result of a query as several files, in bounded memory: written to a folder they are a data set that
   * DuckDB, pyarrow and Spark read.
   */
  exportFiles(source: string, options?: ExportOptions): AsyncGenerator<ExportedFile>

  /**
   * The whole database, as one state between two commits, in the bytes that `connect({ restore })` takes. Changes wait
   * until it is made.
   */
  backup(options?: CallOptions): Promise<Uint8Array>

  /**
   * Runs a function as a transaction: what it does by `tx` takes effect together when it returns, and not at all when it
   * throws. It sees one snapshot of the database and its own changes; nobody else sees them before the end. Calls of
   * `db` itself stay outside.
   *
   * When another writer was first to change a row that it changes (`SERIALIZATION_FAILURE`), the function runs again on
   * a new snapshot, at most `retries` times; so it should do nothing that must not happen twice. A key that another
   * writer inserted is a `UNIQUE_VIOLATION`, which is not retried. After any error within it the transaction takes no
   * more statements (`IN_FAILED_TRANSACTION`), and one that runs no statement for 30 seconds (`transactionTimeoutMs` of
   * `connect`) is rolled back (`TRANSACTION_TIMEOUT`). Calls of `tx` after the end fail with `NO_ACTIVE_TRANSACTION`.
   *
   * @returns what the function returned
   */
  transaction<T>(body: (tx: Transaction) => Promise<T> | T, options?: TransactionOptions): Promise<T>

  /**
   * A session of another user: same database and engine, that user's rows of USER tables, and the role that the user
   * has (`CREATE USER … ROLE …`; `user` without). Its `close` ends the session only.
   *
   * Errors: `INSUFFICIENT_PRIVILEGE` when this connection's role may not act as that user; `INVALID_NAME`.
   */
  as(user: string): Promise<Database>

  /**
   * Drops a user with every row that it has in USER tables, in one step. Dropping one without rows is no error.
   *
   * Errors: `INSUFFICIENT_PRIVILEGE` when this connection's role may not drop that user; `INVALID_NAME`.
   */
  dropUser(user: string, options?: CallOptions): Promise<void>

  /** State of the connection, its storage and its memory. */
  status(options?: CallOptions): Promise<DatabaseStatus>

  /** Waits for running calls, closes the engine and gives the database free. Calling it again is harmless. */
  close(): Promise<void>

  /** `await using db = await connect(…)` closes at the end of the block. */
  [Symbol.asyncDispose](): Promise<void>
}
