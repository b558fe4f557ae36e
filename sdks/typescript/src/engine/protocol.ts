// Messages between the SDK and the host of an engine.
//
// Invariant: a request carries an id and is answered exactly once: by `ok`, by what a run gave, or by `error`. Before that the host may
// send progress and ask for the next piece of a source. What is sent in one turn goes as one list, in its order. The
// same messages go to a host in this thread and to one in a worker; everything in them survives structured cloning.

import type { KalamErrorInit } from '../errors.js'
import type {
  ColumnInfo,
  ConnectProgress,
  Durability,
  ExecResult,
  ImportFormat,
  ImportProgress,
  RescueFinding,
} from '../types.js'
import type { ResolvedWasm } from '../wasm.js'
import type { EngineConfig, EngineStatus, Receipt, RunMode, RunResult, SessionOptions, TableInfo } from './surface.js'

/** Where the bytes of an import come from, as seen by the host. */
export type HostSource =
  | { kind: 'url'; url: string }
  | { kind: 'blob'; blob: Blob; name?: string }
  /** The client reads and the host asks for piece after piece. */
  | { kind: 'fed'; name?: string; contentType?: string; totalBytes?: number }

/** The requests: what each takes and what it answers. */
export interface Ops {
  open: {
    args: { config: EngineConfig; wasm: ResolvedWasm | undefined; lockGraceMs?: number }
    /** The compiled module, so that the next worker needs no download. */
    result: { module: WebAssembly.Module }
  }
  run: {
    args: SessionOptions & { sql: string; params: unknown; mode: RunMode; durability?: Durability; timeoutMs?: number }
    result: RunResult
  }
  /** Parses and keeps; gives the placeholders as they are written. */
  prepare: { args: { sql: string }; result: string[] }
  /** Opens a cursor; `format` makes it one of files. */
  cursor: {
    args: SessionOptions & {
      sql: string
      params: unknown
      format?: ImportFormat
      rowsPerFile?: number
      durability?: Durability
    }
    result: { cursor: number; columns: ColumnInfo[] }
  }
  /** The next rows of a cursor; no buffer at the end. */
  fetch: { args: SessionOptions & { cursor: number; rows: number }; result: { packed: Uint8Array[] } }
  /** The next piece of a cursor of files; `last` ends a file. */
  fetchPiece: { args: SessionOptions & { cursor: number }; result: { bytes: Uint8Array; last: boolean } | undefined }
  closeCursor: { args: SessionOptions & { cursor: number }; result: undefined }
  begin: { args: SessionOptions & { readOnly?: boolean }; result: { transaction: string } }
  commit: { args: { transaction: string; durability?: Durability }; result: ExecResult }
  rollback: { args: { transaction: string }; result: undefined }
  endSession: { args: { user: string; session: string }; result: undefined }
  describe: { args: SessionOptions & { table: string }; result: TableInfo }
  insertPacked: {
    args: SessionOptions & { table: string; columns: string[]; packed: Uint8Array; durability?: Durability }
    result: ExecResult
  }
  insertArrow: {
    args: SessionOptions & { table: string; ipc: Uint8Array; durability?: Durability }
    result: ExecResult
  }
  import: {
    args: SessionOptions & {
      table: string
      source: HostSource
      format?: ImportFormat
      create?: boolean
      header?: boolean
      delimiter?: string
      durability?: Durability
      progress: boolean
    }
    result: ExecResult
  }
  /** The pieces of the stream, in order. */
  backup: { args: Record<never, never>; result: { chunks: Uint8Array[] } }
  status: { args: SessionOptions; result: EngineStatus }
  close: { args: Record<never, never>; result: undefined }
  rescue: {
    args: { name: string; storage: EngineConfig['storage']; wasm: ResolvedWasm | undefined }
    result: { chunks: Uint8Array[]; report: RescueFinding[] }
  }
  deleteDatabase: { args: { name: string; wasm: ResolvedWasm | undefined }; result: undefined }
}

export type Op = keyof Ops

/** A request, or what belongs to one that runs: its cancellation, or the piece that it asked for. */
export type ToHost =
  | { [K in Op]: { id: number; op: K; args: Ops[K]['args'] } }[Op]
  | { id: number; op: 'cancel' }
  | { id: number; op: 'piece'; bytes?: Uint8Array; error?: KalamErrorInit }

export type Progress = ConnectProgress | ImportProgress

/** Rows. Columns that were sent before are named by their place alone. */
export interface RowsAnswer {
  id: number
  /** Where the client keeps the columns of this result; `columns` are what it keeps there from now on. */
  shape: number
  columns?: ColumnInfo[]
  packed: Uint8Array[]
}

/** What a host sends. */
export type FromHost =
  | { id: number; ok: unknown }
  | RowsAnswer
  /** What a run gave that was not asked for rows. */
  | { id: number; run: Receipt }
  | { id: number; ipc: Uint8Array }
  | { id: number; error: KalamErrorInit }
  | { id: number; progress: Progress }
  /** The next piece of a fed source, please. */
  | { id: number; need: true }
  /** A cancellation arrived: the host is not deaf, even if the request takes a while to end. */
  | { id: number; heard: true }
  /** The instance stopped; nothing that runs will be answered. */
  | { trap: string }
