/**
 * KalamDB: a SQL database that runs where the app runs.
 *
 * {@link connect} opens a database; everything else is a method of the {@link Database} that it gives.
 *
 * @packageDocumentation
 */

export { connect, deleteDatabase, rescue } from './connect.js'
export { KalamError, type KalamErrorInit, type Position } from './errors.js'
export type {
  HostStorage,
  StorageDamage,
  StorageOperation,
  StoragePartition,
  StorageRange,
  StorageScan,
  StorageStatistics,
} from './storage.js'
export { Timestamp } from './timestamp.js'
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
  ExportedFile,
  ExportOptions,
  ImportFormat,
  ImportOptions,
  ImportProgress,
  ImportSource,
  Int64Mode,
  JsonObject,
  JsonValue,
  Param,
  Params,
  PreparedStatement,
  Rescued,
  RescueFinding,
  Role,
  Row,
  Rows,
  StreamOptions,
  Transaction,
  TransactionOptions,
  Value,
  WasmSource,
} from './types.js'
