/**
 * Entry `kalamdb/node`: databases in files, for Node, Deno and Bun.
 *
 * `connect({ name, path })` of `kalamdb` does it by itself; {@link openFiles} is for those who want the storage alone.
 *
 * @packageDocumentation
 */

export type {
  HostStorage,
  StorageDamage,
  StorageOperation,
  StoragePartition,
  StorageRange,
  StorageScan,
  StorageStatistics,
} from '../storage.js'
export { deleteFiles, type FileStorageOptions, openFiles } from './files.js'
