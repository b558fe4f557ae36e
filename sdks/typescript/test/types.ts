// The public surface as users write it. Never run: tsc checks that all of this, and only this, is well typed.

import {
  type CallOptions,
  type ColumnInfo,
  type ConnectOptions,
  type ConnectProgress,
  connect,
  type Database,
  type DatabaseStatus,
  type DeleteOptions,
  type Durability,
  deleteDatabase,
  type ExecResult,
  type HostStorage,
  type ImportFormat,
  type ImportOptions,
  type ImportProgress,
  type ImportSource,
  type Int64Mode,
  type JsonValue,
  KalamError,
  type KalamErrorInit,
  type Param,
  type Params,
  type Position,
  type Row,
  type Rows,
  type Value,
  type WasmSource,
} from '../src/index.js'
import { openFiles } from '../src/node/index.js'

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const same = <A, B>(..._proof: Same<A, B> extends true ? [] : [never]): void => {}

interface Item {
  id: bigint
  name: string | null
}

export async function surface(signal: AbortSignal, response: Response, file: File): Promise<void> {
  const short: Database = await connect('shop')
  const options: ConnectOptions = {
    name: 'shop',
    storage: 'indexeddb',
    worker: () => new Worker(new URL('kalamdb/worker', import.meta.url), { type: 'module' }),
    user: 'alice',
    nodeId: 'laptop-1',
    durability: 'strict',
    int64: 'number',
    memoryLimit: 1e9,
    wasm: response,
    onProgress: (p: ConnectProgress) => void [p.phase, p.bytes, p.totalBytes],
    signal,
  }
  await using db = await connect(options)
  const call: CallOptions = { signal, timeoutMs: 1000, durability: 'relaxed' }

  const receipt: ExecResult = await db.exec('INSERT INTO t VALUES ($1)', [1n], call)
  same<typeof receipt.seq, bigint>()
  same<typeof receipt.durability, Durability>()
  const rows = await db.query<Item>('SELECT * FROM t', { name: 'x' }, call)
  same<typeof rows, Rows<Item>>()
  const columns: readonly ColumnInfo[] = rows.columns
  same<(typeof rows)[number], Item>()
  const untyped = await db.query('SELECT 1 AS a')
  same<typeof untyped, Rows<Row>>()
  const value: Value | undefined = untyped[0]?.a
  const one = await db.queryOne<Item>('SELECT * FROM t')
  same<typeof one, Item | undefined>()
  const tagged =
    await db.sql<Item>`SELECT * FROM t WHERE id = ${1n} AND at < ${new Date()} AND e = ${new Float32Array(3)}`
  same<typeof tagged, Rows<Item>>()
  const st = await db.prepare<Item>('SELECT * FROM t WHERE id = ANY ($1)')
  const prepared: Item[] = await st.query([[1n, 2n]])
  const names: readonly string[] = st.parameters
  st.close()
  void prepared
  void names
  const ipc: Uint8Array = await db.arrow('SELECT 1')
  const item: Item = { id: 1n, name: null }
  await db.insert('t', [item], call)
  await db.insert('t', ipc)

  const importOptions: ImportOptions = {
    ...call,
    format: 'csv',
    create: true,
    header: false,
    delimiter: ';',
    onProgress: (p: ImportProgress) => void [p.phase, p.bytes, p.totalBytes, p.rows, p.totalRows],
  }
  const sources: ImportSource[] = [
    file,
    response,
    ipc,
    ipc.buffer as ArrayBuffer,
    'https://x/y.csv',
    new URL('https://x'),
  ]
  for (const source of sources) await db.import('t', source, importOptions)
  await db.import('t', file.stream())

  const bytes: Uint8Array = await db.backup(call)
  const storage: HostStorage = await openFiles('./data', { lockGraceMs: 10 })
  await connect({ name: 'x', storage, restore: bytes })
  await connect({ path: './data' })
  await deleteDatabase('default', { path: './data' })
  const status: DatabaseStatus = await db.status(call)
  same<typeof status.role, 'single'>()
  const deletion: DeleteOptions = { worker: false, wasm: 'https://x/kalamdb_bg.wasm' }
  await short.close()
  await deleteDatabase('shop', deletion)

  try {
    await db.exec('SELECT')
  } catch (error) {
    if (error instanceof KalamError && error.retryable) {
      const position: Position | undefined = error.position
      const plain: KalamErrorInit = error.toJSON()
      void [error.code, error.sqlstate, error.message, error.hint, position, KalamError.from(plain)]
    }
  }

  // @ts-expect-error undefined is no value
  await db.exec('SELECT $1', [undefined])
  // @ts-expect-error a single value is no list of parameters
  await db.exec('SELECT $1', 5)
  await db.exec('SELECT $1, $2, $3', [item, { of: [item] }, Object.create(null)])
  // @ts-expect-error a promise that nobody awaited
  await db.exec('SELECT $1', [db.queryOne('SELECT 1')])
  // @ts-expect-error a Map is no value
  await db.exec('SELECT $1', [new Map()])
  // @ts-expect-error a function is no value
  await db.sql`SELECT ${() => 1}`
  // @ts-expect-error unknown durability
  await db.exec('SELECT 1', [], { durability: 'none' })
  // @ts-expect-error unknown option
  await connect({ name: 'x', file: './data' })
  // @ts-expect-error the columns belong to the result
  rows.columns = []
  const [format, int64, json, param, params, wasm]: [ImportFormat, Int64Mode, JsonValue, Param, Params, WasmSource] = [
    'ndjson',
    'string',
    [{ a: null }],
    { nested: [1] },
    [null],
    'x',
  ]
  void [columns, value, format, int64, json, param, params, wasm]
}
