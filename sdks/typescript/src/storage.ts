// Storage that an app or an edge worker supplies. The engine's side of this contract is src/storage/host.rs in the
// repository's root; `kalamdb/node` is an implementation.

import type { Durability } from './types.js'

/** The parts of a database. A storage keeps them apart and makes no other. */
export type StoragePartition = 'meta' | 'catalog' | 'log' | 'manifest' | 'blob'

/** A range of keys in byte order: from `from` (inclusive) to `to` (exclusive); an end that is left out is open. */
export interface StorageRange {
  from?: Uint8Array | undefined
  to?: Uint8Array | undefined
}

/** What a scan is asked for. */
export interface StorageScan extends StorageRange {
  /** At most so many records. */
  limit?: number | undefined
  /** From the greatest key down. */
  reverse?: boolean | undefined
}

/** One change of a commit. */
export type StorageOperation =
  | { type: 'put'; partition: StoragePartition; key: Uint8Array; value: Uint8Array }
  | { type: 'delete'; partition: StoragePartition; key: Uint8Array }
  | ({ type: 'deleteRange'; partition: StoragePartition } & StorageRange)

/** What a storage tells of itself; left out is "not known". */
export interface StorageStatistics {
  /** Records over all partitions. */
  records?: number
  /** Bytes of keys and values. */
  bytes?: number
  /** Bytes used on the device. */
  usage?: number
  /** Bytes that may be used. */
  quota?: number
}

/** Something that a storage cannot give back any more. */
export interface StorageDamage {
  /** What is damaged. */
  object: string
  /** What is lost of it. */
  detail: string
}

/**
 * An ordered map of bytes in five partitions, as an app or an edge worker supplies it: pass it as `storage` to
 * `connect`. Keys are ordered by their unsigned bytes, a shorter one before any that it is a prefix of. Values have at
 * most 1 MiB. Every function may answer at once or with a promise.
 *
 * One engine uses a storage at a time; keeping a second one away is the storage's affair. Calls overlap: a read that is
 * made while a commit is under way sees all of it or nothing, and one that is made after it has ended sees it.
 *
 * Errors: throw an object with a `code`: `QUOTA_EXCEEDED` (or `ENOSPC`) when there is no room, `STORAGE_CLOSED` when the
 * connection to the storage was lost, `CONNECTION_CLOSED` after `close`. Anything else becomes `STORAGE_ERROR`.
 */
export interface HostStorage {
  /** The value of a key. */
  get(partition: StoragePartition, key: Uint8Array): Promise<Uint8Array | undefined> | Uint8Array | undefined
  /** The records of a range in key order, or in reverse: pairs of key and value, as of one moment. */
  scan(
    partition: StoragePartition,
    scan: StorageScan,
  ): Promise<readonly (readonly [Uint8Array, Uint8Array])[]> | readonly (readonly [Uint8Array, Uint8Array])[]
  /**
   * Applies all operations, in order, or none, and tells the durability reached: `relaxed` survives the end of the
   * process, `strict` also a loss of power. The engine passes copies; the storage may keep them.
   */
  commit(
    operations: readonly StorageOperation[],
    options: { durability: Durability },
  ): Promise<Durability | undefined> | Durability | undefined
  /**
   * `length` bytes of a blob from `offset`, fewer at its end, `undefined` if there is none. Left out, the engine reads
   * the parts by `scan`: records of partition `blob` under u16 length of the id (big endian), the id, u32 number of the
   * part (big endian), each of 256 KiB but the last.
   */
  readBlob?(id: Uint8Array, offset: number, length: number): Promise<Uint8Array | undefined> | Uint8Array | undefined
  /** What it holds. */
  stats?(): Promise<StorageStatistics> | StorageStatistics
  /** What it knows to be damaged or lost; the report of `rescue` has it. */
  damage?(): readonly StorageDamage[]
  /** Gives space back: `STORAGE COMPACT ALL` asks for it. */
  compact?(): Promise<void> | void
  /** Ends its use, after the commits under way. */
  close(): Promise<void> | void
}
