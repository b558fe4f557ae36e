// Making and deleting databases: options are checked here and turned into a client.
//
// Invariant: an option that is not understood is an error. Ignoring one (a storage that does not exist here, a path)
// would mean losing data silently.

import { joined } from './bytes.js'
import { Connection, checkUser } from './database.js'
import { EngineClient } from './engine/client.js'
import { Link } from './engine/link.js'
import type { EngineConfig } from './engine/surface.js'
import { overWorker, type Receiver, type Spawn, spawnWorker } from './engine/transport.js'
import { KalamError } from './errors.js'
import { Limit } from './limit.js'
import { memoryLimits } from './memory.js'
import { hasFiles } from './node/builtin.js'
import type { FileStorageOptions } from './node/files.js'
import { checkOptions, invalid } from './options.js'
import { bytesIn, is } from './realm.js'
import type { ConnectOptions, ConnectProgress, Database, DeleteOptions, Rescued, WasmSource } from './types.js'
import { compileResponse, type ResolvedWasm } from './wasm.js'

const OPTIONS: readonly string[] = [
  'name',
  'storage',
  'path',
  'restore',
  'worker',
  'user',
  'role',
  'nodeId',
  'durability',
  'int64',
  'memoryBudget',
  'memoryLimit',
  'transactionTimeoutMs',
  'wasm',
  'onProgress',
  'signal',
]

const ROLES: readonly unknown[] = ['user', 'service', 'dba', 'system']

/**
 * Opens a database and creates it if it is not there.
 *
 * In a browser the engine runs in a worker and the data lives in IndexedDB; elsewhere it runs in this thread and the
 * data lives in files under `path`, or in memory without it. One engine owns a stored database at a time.
 *
 * Errors: `DATABASE_LOCKED` when another tab, worker or connection has it open; `CONNECTION_FAILED` when the engine's
 * worker or wasm cannot be loaded; `FEATURE_NOT_SUPPORTED` for a storage that does not exist here; `INVALID_OPTION`;
 * `UNSUPPORTED_FORMAT` when a later version wrote the database.
 *
 * @param options the name, or all options
 */
export async function connect(options: string | ConnectOptions): Promise<Database> {
  const given = withName(typeof options === 'string' ? { name: options } : options)
  checkConnect(given)
  const { name, restore, user, role, nodeId, durability, transactionTimeoutMs, onProgress, signal } = given
  const { int64 = 'bigint' } = given
  const storage = chooseStorage(given)
  const spawn = chooseSpawn(given.worker, typeof storage !== 'string')
  const config: EngineConfig = {
    name,
    storage,
    ...(restore !== undefined && { restore: checkBytes(restore) }),
    ...(user !== undefined && { user }),
    ...(role !== undefined && { role }),
    ...(nodeId !== undefined && { nodeId }),
    ...(durability !== undefined && { durability }),
    ...memoryLimits(given),
    ...(transactionTimeoutMs !== undefined && { transactionTimeoutMs }),
  }
  const client = new EngineClient({
    spawn,
    config,
    wasm: await resolveWasm(given.wasm, onProgress),
    onProgress: onProgress && (progress => onProgress(progress as ConnectProgress)),
  })
  await client.open(signal)
  return new Connection(name, client, int64, durability ?? 'relaxed')
}

/**
 * Deletes a database with all its data. Deleting one that does not exist is no error.
 *
 * Errors: `DATABASE_LOCKED` while a connection has it open, in this tab or another.
 *
 * @param name name of the database
 */
export async function deleteDatabase(name: string, options: DeleteOptions = {}): Promise<void> {
  checkName(name)
  checkOptions(options, ['path', 'worker', 'wasm', 'signal'])
  if (options.path !== undefined) {
    const { deleteFiles } = await import('./node/files.js')
    return deleteFiles(folderOf(checkPath(options.path), name))
  }
  // Without IndexedDB nothing is ever stored: databases in memory end with their connections.
  if (globalThis.indexedDB === undefined) return
  const wasm = await resolveWasm(options.wasm)
  const limit = new Limit(options.signal)
  const done = new KalamError({ code: 'CONNECTION_CLOSED', message: 'the engine was started for one call only' })
  let link: Link | undefined
  try {
    limit.check()
    link = await Link.start(chooseSpawn(options.worker), () => {})
    await link.call('deleteDatabase', { name, wasm }, { limit })
  } finally {
    limit.dispose()
    link?.terminate(done)
  }
}

/**
 * Reads everything that can be read of a database with damaged records, which may well not open any more: a backup to
 * restore under another name, and the report of what is missing in it. The database is not changed.
 *
 * Errors: `DATABASE_LOCKED` while a connection has it open, `DATABASE_NOT_FOUND` if there is none of this name: none is
 * made.
 *
 * @param options as for {@link connect}
 */
export async function rescue(options: string | ConnectOptions): Promise<Rescued> {
  const given = withName(typeof options === 'string' ? { name: options } : options)
  checkConnect(given)
  const storage = chooseStorage(given, { salvage: true })
  const wasm = await resolveWasm(given.wasm)
  const limit = new Limit(given.signal)
  const done = new KalamError({ code: 'CONNECTION_CLOSED', message: 'the engine was started for one call only' })
  let link: Link | undefined
  try {
    limit.check()
    link = await Link.start(chooseSpawn(given.worker, typeof storage !== 'string'), () => {})
    const { chunks, report } = await link.call('rescue', { name: given.name, storage, wasm }, { limit, readOnly: true })
    return { bytes: joined(chunks), report }
  } finally {
    limit.dispose()
    link?.terminate(done)
  }
}

type Named = ConnectOptions & { name: string }

/** A folder of databases needs no name for its only one. */
function withName(options: ConnectOptions): Named {
  if (typeof options !== 'object' || options === null) throw invalid('connect takes a name or an object of options')
  return options.name === undefined && options.path !== undefined ? { ...options, name: 'default' } : (options as Named)
}

function checkPath(path: unknown): string {
  if (typeof path !== 'string' || path === '') throw invalid(`path is '${String(path)}', expected the name of a folder`)
  if (hasFiles()) return path
  throw new KalamError({
    code: 'FEATURE_NOT_SUPPORTED',
    message: 'there are no files here, so path means nothing',
    hint: 'Leave `path` out. In a browser the data lives in IndexedDB.',
  })
}

/** The folder of a database, with a name that every file system takes. */
function folderOf(path: string, name: string): string {
  const safe = encodeURIComponent(name).replace(/[.*]/g, c => `%${c.charCodeAt(0).toString(16)}`)
  return `${path}/${safe}.kalamdb`
}

function checkBytes(restore: unknown): Uint8Array {
  const bytes = bytesIn(restore)
  if (bytes !== undefined) return bytes
  throw invalid(`restore is ${restore === null ? 'null' : typeof restore}, expected the bytes of a backup`)
}

function checkConnect(options: Named): void {
  checkOptions(options, OPTIONS)
  checkName(options.name)
  if (options.user !== undefined) checkUser(options.user)
  const { int64, role } = options
  if (role !== undefined && !ROLES.includes(role)) {
    throw invalid(`role is '${String(role)}', expected 'user', 'service', 'dba' or 'system'`)
  }
  const { transactionTimeoutMs: idle } = options
  if (idle !== undefined && !(typeof idle === 'number' && idle > 0)) {
    throw invalid(`transactionTimeoutMs is ${String(idle)}, expected a number of milliseconds above 0`)
  }
  if (int64 !== undefined && !['bigint', 'number', 'string'].includes(int64)) {
    throw invalid(`int64 is '${String(int64)}', expected 'bigint', 'number' or 'string'`)
  }
}

function checkName(name: unknown): void {
  const whole = typeof name === 'string' && !/\p{Surrogate}/u.test(name)
  if (whole && name !== '') return
  const is =
    typeof name !== 'string' ? `is ${typeof name}` : name === '' ? 'is empty' : 'holds half of a surrogate pair'
  const message = `the name of a database ${is}, expected text`
  throw new KalamError({ code: 'INVALID_NAME', message })
}

function chooseStorage({ storage, path, name }: Named, files: FileStorageOptions = {}): EngineConfig['storage'] {
  if (path !== undefined) {
    if (storage !== undefined) throw invalid('path and storage are both given, expected one of them')
    const folder = folderOf(checkPath(path), name)
    return async () => (await import('./node/files.js')).openFiles(folder, files)
  }
  if (typeof storage === 'object' && storage !== null) return storage
  const stored = globalThis.indexedDB !== undefined
  if (storage === undefined) return stored ? 'indexeddb' : 'memory'
  if (storage === 'memory' || (storage === 'indexeddb' && stored)) return storage
  const possible = stored ? "'indexeddb', 'memory' or a HostStorage" : "'memory' or a HostStorage"
  if (storage === 'indexeddb' || storage === 'opfs') {
    throw new KalamError({
      code: 'FEATURE_NOT_SUPPORTED',
      message: `storage '${storage}' is not available here`,
      hint: hasFiles() ? `Give a \`path\` for files, or use ${possible}.` : `Use ${possible}.`,
    })
  }
  throw invalid(`storage is '${String(storage)}', expected ${possible}`)
}

function chooseSpawn(worker: unknown, here = false): Spawn {
  if (here && worker !== undefined && worker !== false) {
    throw new KalamError({
      code: 'FEATURE_NOT_SUPPORTED',
      message: 'storage that this thread supplies cannot be used by a worker',
      hint: 'Leave `worker` out: the engine then runs in this thread.',
    })
  }
  // Deno and Bun have workers too, but no IndexedDB: there the engine runs in the caller's thread by default.
  const browser = typeof Worker !== 'undefined' && globalThis.indexedDB !== undefined
  if (here || worker === false || (worker === undefined && !browser)) {
    return async (receiver: Receiver) => (await import('./engine/inline.js')).startInline(receiver)
  }
  if (typeof worker === 'function') return receiver => overWorker(worker() as Worker, receiver)
  if (worker !== true && worker !== undefined)
    throw invalid(`worker is ${typeof worker}, expected a boolean or a function`)
  if (typeof Worker !== 'undefined') return spawnWorker
  throw new KalamError({
    code: 'FEATURE_NOT_SUPPORTED',
    message: 'there are no web workers here',
    hint: 'Leave `worker` out: the engine then runs in this thread.',
  })
}

/** An address that means the same in a worker, or a module. A response is compiled here: it cannot be sent. */
async function resolveWasm(
  wasm: WasmSource | undefined,
  onProgress?: (progress: ConnectProgress) => void,
): Promise<ResolvedWasm | undefined> {
  if (wasm === undefined || wasm instanceof WebAssembly.Module) return wasm
  if (is(wasm, 'Response')) return compileResponse(wasm, onProgress)
  try {
    return new URL(wasm, globalThis.document?.baseURI ?? globalThis.location?.href).href
  } catch {
    throw invalid(`wasm is '${String(wasm)}', expected an address, a Response or a WebAssembly.Module`)
  }
}
