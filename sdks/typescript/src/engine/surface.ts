// The wasm surface as the SDK uses it: the types of what `pkg/kalamdb.js` exports. The engine's side of this contract
// is src/wasm/ in the repository's root.

import type { HostStorage } from '../storage.js'
import type { ColumnInfo, Durability, ExecResult, ImportFormat, RescueFinding, Role } from '../types.js'

/** What `Engine.open` takes. */
export interface EngineConfig {
  name: string
  /** A function makes the storage for each engine anew: the one that follows a stopped engine reads what is stored. */
  storage: 'memory' | 'indexeddb' | HostStorage | (() => Promise<HostStorage>)
  /** A backup to restore before the database is opened for the first time. */
  restore?: Uint8Array
  user?: string
  role?: Role
  nodeId?: string
  durability?: Durability
  memoryLimit?: number
  /** Bytes of rows in memory beyond which they are written to segments first. */
  hotLimit?: number
  /** Bytes that what was read of segments may take. */
  segmentCache?: number
  transactionTimeoutMs?: number
}

/** What `run` gives back the rows in: packed columns for people, Arrow for machines; nothing for statements. */
export type RunMode = 'exec' | 'query' | 'arrow'

/** Whose session a call belongs to: that of whoever opened the database, or one of another user. */
export interface SessionOptions {
  /** The other user. */
  user?: string
  /** Tells several sessions of one user apart. */
  session?: string
  /** An open transaction, which has a session of its own. */
  transaction?: string
}

export interface RunOptions extends SessionOptions {
  durability?: Durability
  timeoutMs?: number
}

/** What a run did: rows affected, the last `_seq` of its commit, the durability reached. */
export type Receipt = [rowsAffected: number, seq: bigint, durability: Durability]

/** What `run` gives: a receipt, then for the mode `query` columns and packed rows, for `arrow` the IPC stream. */
export type RunOutcome =
  | Receipt
  | [...Receipt, columns: ColumnInfo[], packed: Uint8Array[]]
  | [...Receipt, ipc: Uint8Array]

/** The result of a run as the client has it: a receipt, rows, or an IPC stream, as its mode says. */
export interface RunResult {
  receipt?: ExecResult
  columns?: readonly ColumnInfo[]
  packed?: Uint8Array[]
  ipc?: Uint8Array
}

export interface TableColumn extends ColumnInfo {
  primaryKey: boolean
  hasDefault: boolean
}

export interface TableInfo {
  namespace: string
  name: string
  type: 'SHARED' | 'USER' | 'STREAM' | 'SYSTEM' | 'VIEW'
  columns: TableColumn[]
}

export interface EngineStatus {
  storage: 'memory' | 'indexeddb' | 'host'
  version: string
  nodeId: string
  user?: string
  userRole?: Role
  records: number
  bytes: number
  usage?: number
  quota?: number
  memory: { wasm: number; hotRows: number; hotBytes: number; query: number }
  log: { commits: number; groups: number }
}

export interface ImporterOptions extends SessionOptions {
  format: ImportFormat
  create?: boolean
  header?: boolean
  delimiter?: string
  durability?: Durability
}

export interface Importer {
  push(bytes: Uint8Array): Promise<{ bytes: number; rows: number }>
  finish(onProgress?: (progress: { rows: number; totalRows?: number }) => void): Promise<ExecResult>
  abort(): void
}

export interface Cursor {
  readonly columns: ColumnInfo[]
  next(maxRows: number): Promise<Uint8Array[]>
  nextPiece(): Promise<{ bytes: Uint8Array; last: boolean } | undefined>
  close(): void
}

export interface Engine {
  cursor(
    sql: string,
    params: unknown,
    options: SessionOptions & {
      format?: ImportFormat
      rowsPerFile?: number
      durability?: Durability
      requestId?: number
    },
  ): Promise<Cursor>
  /** What needs no waiting is done, and given or thrown, at once. For the rest `done` is called with what `run` was given. */
  run(
    sql: string,
    params: unknown,
    mode: RunMode,
    requestId: number,
    options: RunOptions | undefined,
    done: (requestId: number, outcome: RunOutcome | undefined, error: unknown) => void,
  ): RunOutcome | undefined
  /**
   * The row of a query by its whole key that has been run before, in the session of whoever opened the database, if the
   * engine knows it at once. Else the query has to be run.
   */
  get(sql: string, params: unknown): [columns: ColumnInfo[], packed: Uint8Array | undefined] | undefined
  /** Runs a text for each set of parameters, as calls that overlap; gives a receipt or an error object for each. */
  runMany(sql: string, sets: unknown[], options: RunOptions | undefined): Promise<(Receipt | object)[]>
  prepare(sql: string): Promise<string[]>
  cancel(requestId: number): void
  endSession(user: string, session: string): void
  /** Begins a transaction and gives the id that calls then name. */
  begin(options: SessionOptions & { readOnly?: boolean }): Promise<string>
  commit(transaction: string, options: { durability?: Durability; requestId?: number }): Promise<ExecResult>
  rollback(transaction: string): Promise<void>
  describe(table: string, options: SessionOptions): Promise<TableInfo>
  insertPacked(
    table: string,
    columns: string[],
    packed: Uint8Array,
    options: SessionOptions & { durability?: Durability },
  ): Promise<ExecResult>
  insertArrow(
    table: string,
    ipc: Uint8Array,
    options: SessionOptions & { durability?: Durability },
  ): Promise<ExecResult>
  importer(table: string, options: ImporterOptions): Promise<Importer>
  status(options: SessionOptions): Promise<EngineStatus>
  backup(chunk: (bytes: Uint8Array) => void): Promise<void>
  close(): Promise<void>
}

/** One instance of the wasm module with its bindings. */
export interface Surface {
  Engine: {
    open(config: EngineConfig & { storage: 'memory' | 'indexeddb' | HostStorage }): Promise<Engine>
    rescue(
      config: { name: string; storage: 'memory' | 'indexeddb' | HostStorage },
      chunk: (bytes: Uint8Array) => void,
    ): Promise<RescueFinding[]>
  }
  deleteDatabase(name: string): Promise<void>
  version(): string
}
