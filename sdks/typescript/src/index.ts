/**
 * KalamDB: a SQL database that runs where the app runs.
 *
 * {@link connect} opens a database; everything else is a method of the {@link Database} that it gives.
 *
 * @packageDocumentation
 */

export { connect, deleteDatabase } from './connect.js'
export { KalamError, type KalamErrorInit, type Position } from './errors.js'
export { Timestamp } from './timestamp.js'
export type {
  HostStorage,
  StorageOperation,
  StoragePartition,
  StorageRange,
  StorageScan,
  StorageStatistics,
} from './storage.js'
export type {
  CallOptions,
  ColumnInfo,
  ConnectOptions,
  ConnectProgress,
  Database,
  DatabaseStatus,
  DeleteOptions,
  Durability,
  ExecResult,
  ImportFormat,
  ImportOptions,
  ImportProgress,
  ImportSource,
  Int64Mode,
  JsonValue,
  Param,
  Params,
  PreparedStatement,
  Row,
  Rows,
  Value,
  WasmSource,
} from './types.js'
