// The SDK on the real engine, inline in Node with memory storage. Needs pkg/ (make build); without it every test fails.

import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { runInNewContext } from 'node:vm'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { connect, type Database, type ImportProgress, KalamError, Timestamp } from '../src/index.js'
import { code } from './code.js'

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)

describe('the real engine', () => {
  let db: Database
  before(async () => {
    db = await connect({ name: 'test', storage: 'memory' })
  })
  after(() => db.close())

  it('creates, inserts, queries and reports', async () => {
    await db.exec('CREATE TABLE people (id BIGINT PRIMARY KEY, name TEXT NOT NULL, age INT)')
    const receipt = await db.exec("INSERT INTO people VALUES (1, 'Ann', 31), (2, 'Ben', NULL)")
    assert.equal(receipt.rowsAffected, 2)
    assert.equal(typeof receipt.seq, 'bigint')
    const rows = await db.query('SELECT * FROM people ORDER BY id')
    assert.deepEqual(
      [...rows],
      [
        { id: 1n, name: 'Ann', age: 31 },
        { id: 2n, name: 'Ben', age: null },
      ],
    )
    assert.deepEqual(
      rows.columns.map(c => [c.name, c.type, c.nullable]),
      [
        ['id', 'BIGINT', false],
        ['name', 'TEXT', false],
        ['age', 'INT', true],
      ],
    )
    assert.equal(await db.queryOne('SELECT * FROM people WHERE id = 99'), undefined)
    assert.equal((await db.query('SELECT * FROM people WHERE id = 99')).columns.length, 3)
    const next = await db.exec('UPDATE people SET age = 32 WHERE id = 1; DELETE FROM people WHERE id = 2')
    assert.equal(next.rowsAffected, 2)
    assert.ok(next.seq > receipt.seq)
    const status = await db.status()
    assert.equal(status.storage, 'memory')
    assert.equal(status.role, 'single')
    assert.ok(status.memory.wasm > 0)
    assert.match(status.version, /^\d+\.\d+\.\d+/)
  })

  it('takes values of another realm: of a frame, of Node beside the context that Jest runs in', async () => {
    const other = (code: string) => runInNewContext(code) as never
    assert.ok(!((other('new Uint8Array(1)') as unknown) instanceof Uint8Array))
    const params = [
      'new Uint8Array([1, 2]).subarray(1)',
      'new Date(5)',
      'new Float32Array([1])',
      '({ a: [1] })',
      'new ArrayBuffer(1)',
    ]
    const found = await db.queryOne('SELECT $1 AS b, $2 AS d, $3 AS e, $4 AS j, $5 AS a', params.map(other))
    const [b, d, e, j, a] = [new Uint8Array([2]), new Date(5), new Float32Array([1]), '{"a":[1]}', new Uint8Array(1)]
    assert.deepEqual(found, { b, d, e, j, a })
    await db.exec('CREATE TABLE realm (k INT PRIMARY KEY, b BYTES, d TIMESTAMP, day DATE, u UUID, e EMBEDDING(1))')
    const row =
      '[{ k: 1, b: new Uint8Array([7]), d: new Date(0), day: new Date(0), u: new Uint8Array(16), e: new Float32Array(1) }]'
    await db.insert('realm', other(row))
    await db.insert('realm', other('[{ k: 2, b: new ArrayBuffer(2), d: new Date(1), day: "2000-01-01" }]'))
    await db.import('realm', other('new Uint8Array([107, 10, 51, 10])'), { format: 'csv' })
    assert.equal((await db.query('SELECT k FROM realm')).length, 3)
    await assert.rejects(db.insert('realm', other('new Uint8Array(3)')), code('INVALID_DATA', /Arrow/))
    await assert.rejects(db.query('SELECT $1', [other('new Date(NaN)')]), code('PARAMETER_TYPE', /invalid Date/))
    await assert.rejects(db.query('SELECT $1', [other('new Float64Array(1)')]), code('PARAMETER_TYPE'))
    await assert.rejects(connect({ name: 'r', restore: other('new Uint8Array(40)') }), code('INVALID_DATA'))
  })

  it('takes null for no options, and says what is wrong with the name of a table', async () => {
    const none = null as never
    await db.exec('CREATE TABLE plain (k INT PRIMARY KEY)', none, none)
    await db.insert('plain', [{ k: 1 }], none)
    await db.import('plain', new Blob(['k\n2\n'], { type: 'text/csv' }), none)
    await db.transaction(tx => tx.exec('INSERT INTO plain VALUES (3)'), none)
    for await (const rows of db.stream('SELECT k FROM plain ORDER BY k', none, none)) {
      assert.deepEqual([...rows], [{ k: 1 }, { k: 2 }, { k: 3 }])
    }
    for (const name of [undefined, '', 5]) {
      const wrong = code('INVALID_NAME', /name of the table is (undefined|string ""|number 5), expected text/)
      await assert.rejects(db.insert(name as never, [{ k: 4 }]), wrong)
      await assert.rejects(db.insert(name as never, new Uint8Array(8)), wrong)
      await assert.rejects(db.import(name as never, new Blob(['k\n2\n'])), wrong)
    }
  })

  const TYPES = `b BOOLEAN, s SMALLINT, i INT, l BIGINT, d DOUBLE, f FLOAT, dec DECIMAL(12,2), t TEXT, ts TIMESTAMP,
    dt DATETIME, day DATE, clock TIME, j JSON, bin BYTES, e EMBEDDING(3), u UUID`
  const FULL = {
    b: true,
    s: -32_768,
    i: 2_147_483_647,
    l: -(2n ** 63n),
    d: Math.E,
    f: 0.25,
    dec: '-1234567890.12',
    t: 'naïve 日本 🦀',
    ts: new Date('1969-07-20T20:17:40.123Z'),
    dt: new Date('2024-02-29T23:59:59.999Z'),
    day: new Date('2000-02-29'),
    clock: '12:34:56.789012',
    j: { a: [1, 'ü', null], b: { c: true } },
    bin: new Uint8Array([0, 1, 254, 255]),
    e: new Float32Array([0.5, -1, 2]),
    u: '550e8400-e29b-41d4-a716-446655440000',
  }
  const EMPTY = Object.fromEntries(Object.keys(FULL).map(key => [key, null]))

  it('takes objects of every type and gives them back', async () => {
    await db.exec(`CREATE TABLE everything (id INT PRIMARY KEY, ${TYPES})`)
    const rows = [
      { id: 1, ...FULL },
      { id: 2, ...EMPTY },
      { id: 3, ...FULL, t: '' },
    ]
    assert.equal((await db.insert('everything', rows)).rowsAffected, 3)
    assert.deepEqual([...(await db.query('SELECT * FROM everything ORDER BY id'))], rows)
    assert.deepEqual([...(await db.query('SELECT * FROM everything WHERE id > 3'))], [])
  })

  it('takes every type as a parameter', async () => {
    await db.exec(`CREATE TABLE parameters (id INT PRIMARY KEY, ${TYPES})`)
    const keys = Object.keys(FULL)
    const sql = `INSERT INTO parameters (id, ${keys.join(', ')}) VALUES ($1, ${keys.map((_, i) => `$${i + 2}`).join(', ')})`
    await db.exec(sql, [1, ...Object.values(FULL)])
    await db.exec(sql, [2, ...Object.values(EMPTY)])
    assert.deepEqual(
      [...(await db.query('SELECT * FROM parameters ORDER BY id'))],
      [
        { id: 1, ...FULL },
        { id: 2, ...EMPTY },
      ],
    )
    const nasty = "x'; DROP TABLE parameters; --"
    assert.deepEqual([...(await db.sql`SELECT id FROM parameters WHERE t = ${nasty}`)], [])
    assert.deepEqual([...(await db.sql`SELECT id FROM parameters WHERE id = ${1} AND t = ${FULL.t}`)], [{ id: 1 }])
  })

  it('keeps microseconds, inserted, as a parameter and in comparisons', async () => {
    await db.exec('CREATE TABLE moments (id INT PRIMARY KEY, ts TIMESTAMP, dt DATETIME)')
    const at = new Timestamp(1_767_312_645_123_456n)
    await db.insert('moments', [{ id: 1, ts: at, dt: at }])
    await db.exec('INSERT INTO moments VALUES (2, $1, $2)', [at, at])
    const rows = await db.query<{ ts: Timestamp; dt: Timestamp }>('SELECT ts, dt FROM moments')
    for (const row of rows) {
      assert.equal(row.ts.epochMicroseconds, at.epochMicroseconds)
      assert.equal(row.dt.epochMicroseconds, at.epochMicroseconds)
    }
    const same = 'SELECT count(*) AS n FROM moments WHERE ts = $at AND dt = $at'
    assert.equal((await db.queryOne<{ n: bigint }>(same, { at }))?.n, 2n)
    const later = new Timestamp(at.epochMicroseconds + 1n)
    assert.equal((await db.queryOne<{ n: bigint }>(same, { at: later }))?.n, 0n)
  })

  it('gives typed errors with their place, and leaves nothing behind', async () => {
    await db.exec('CREATE TABLE strict (id INT PRIMARY KEY, n INT NOT NULL)')
    await assert.rejects(db.query('SELECT *\nFORM strict'), (error: KalamError) => {
      code('SYNTAX_ERROR', { sqlstate: '42601' })(error)
      assert.equal(error.position?.line, 2)
      return true
    })
    await assert.rejects(db.query('SELECT * FROM nowhere'), code('TABLE_NOT_FOUND', { sqlstate: '42P01' }))
    await assert.rejects(db.query('SELECT nothing FROM strict'), code('COLUMN_NOT_FOUND', { sqlstate: '42703' }))
    await assert.rejects(db.insert('nowhere', [{ id: 1 }]), code('TABLE_NOT_FOUND'))
    await assert.rejects(db.insert('strict', [{ id: 1, m: 1 }]), code('COLUMN_NOT_FOUND'))
    await assert.rejects(
      db.insert('strict', [
        { id: 1, n: 1 },
        { id: 1, n: 2 },
      ]),
      code('UNIQUE_VIOLATION'),
    )
    await assert.rejects(db.insert('strict', [{ id: 1, n: 1 }, { id: 2 }]), code('NOT_NULL_VIOLATION'))
    await assert.rejects(db.query('SELECT * FROM strict WHERE id = $1', []), code('PARAMETER_COUNT'))
    assert.deepEqual([...(await db.query('SELECT * FROM strict'))], [])
  })

  it('inserts many rows as one statement', async () => {
    await db.exec('CREATE TABLE many (id BIGINT PRIMARY KEY, name TEXT, score DOUBLE)')
    const rows = Array.from({ length: 70_000 }, (_, i) => ({ id: BigInt(i), name: `n${i}`, score: i / 4 }))
    assert.equal((await db.insert('many', rows)).rowsAffected, 70_000)
    await assert.rejects(db.insert('many', [{ id: 70_000n }, { id: 5n }]), code('UNIQUE_VIOLATION'))
    assert.equal((await db.queryOne('SELECT count(*) AS n FROM many'))?.n, 70_000n)
    const all = await db.query('SELECT * FROM many ORDER BY id')
    assert.equal(all.length, 70_000)
    assert.deepEqual(all[69_999], rows[69_999])
  })

  it('fills defaults for columns that no row names', async () => {
    await db.exec("CREATE TABLE defaults (id INT PRIMARY KEY, kind TEXT DEFAULT 'plain', n INT)")
    await db.insert('defaults', [{ id: 1 }, { id: 2, n: 5 }])
    await db.insert('defaults', [{ id: 3, kind: 'own' }, { id: 4 }])
    assert.deepEqual(
      [...(await db.query('SELECT * FROM defaults ORDER BY id'))],
      [
        { id: 1, kind: 'plain', n: null },
        { id: 2, kind: 'plain', n: 5 },
        { id: 3, kind: 'own', n: null },
        { id: 4, kind: null, n: null },
      ],
    )
  })

  it('prepares statements', async () => {
    await db.exec('CREATE TABLE prepared (id INT PRIMARY KEY, n BIGINT, e EMBEDDING(2))')
    await assert.rejects(db.prepare('SELEC'), { code: 'SYNTAX_ERROR', position: { line: 1, column: 1 } })
    const add = await db.prepare('INSERT INTO prepared VALUES ($1, $2, $3)')
    assert.deepEqual(add.parameters, ['$1', '$2', '$3'])
    for (const id of [1, 2, 3]) await add.exec([id, BigInt(id) * 10n, new Float32Array([id, 0.5])])
    const get = await db.prepare<{ n: bigint }>('SELECT n FROM prepared WHERE id = $1')
    assert.deepEqual([...(await get.query([2]))], [{ n: 20n }])
    const named = await db.prepare('SELECT id FROM prepared WHERE n > $least ORDER BY id')
    assert.deepEqual([...(await named.query({ least: 15 }))], [{ id: 2 }, { id: 3 }])
    assert.deepEqual([...(await named.query({ least: null }))], [])
    await db.exec('UPDATE prepared SET n = 21 WHERE id = 2')
    assert.deepEqual([...(await get.query([2]))], [{ n: 21n }])
    get.close()
    await assert.rejects(get.query([2]), { code: 'CONNECTION_CLOSED' })
  })

  it('holds a table larger than its memory budget', async () => {
    const small = await connect({ name: 'small', storage: 'memory', memoryBudget: 20 << 20 })
    await small.exec('CREATE TABLE big (id INT PRIMARY KEY, body TEXT)')
    const body = 'x'.repeat(200)
    for (let part = 0; part < 12; part++) {
      const rows = Array.from({ length: 10_000 }, (_, i) => ({ id: part * 10_000 + i, body: `${body}${i}` }))
      await small.insert('big', rows)
    }
    const { memory } = await small.status()
    assert.ok(memory.hotBytes < 12 << 20, `${memory.hotBytes} bytes of 25 MB are in memory`)
    const found = await small.queryOne(
      'SELECT count(*) AS n, count(DISTINCT id) AS ids, sum(length(body)) AS chars FROM big',
    )
    const chars = 12n * BigInt(Array.from({ length: 10_000 }, (_, i) => 200 + String(i).length).reduce((a, b) => a + b))
    assert.deepEqual(found, { n: 120_000n, ids: 120_000n, chars })
    assert.equal((await small.queryOne<{ body: string }>('SELECT body FROM big WHERE id = 77777'))?.body, `${body}7777`)
    await small.close()
  })

  it('takes arrays and many parameters', async () => {
    await db.exec('CREATE TABLE listed (id INT PRIMARY KEY)')
    const ids = Array.from({ length: 1000 }, (_, i) => i)
    await db.exec(`INSERT INTO listed VALUES ${ids.map(i => `($${i + 1})`).join(', ')}`, ids)
    const rows = await db.query('SELECT id FROM listed WHERE id = ANY ($1) ORDER BY id', [[7, 5n, null, 2000]])
    assert.deepEqual([...rows], [{ id: 5 }, { id: 7 }])
    const none = await db.query('SELECT id FROM listed WHERE id IN ($1)', [[]])
    assert.deepEqual([...none], [])
    const rest = await db.query('SELECT count(*) AS n FROM listed WHERE id <> ALL ($1)', [ids.slice(1)])
    assert.deepEqual([...rest], [{ n: 1n }])
  })

  it('speaks Arrow both ways', async () => {
    await db.exec(
      'CREATE TABLE source (id INT PRIMARY KEY, name TEXT); CREATE TABLE target (id INT PRIMARY KEY, name TEXT)',
    )
    await db.insert('source', [
      { id: 1, name: 'a' },
      { id: 2, name: null },
    ])
    const ipc = await db.arrow('SELECT * FROM source ORDER BY id')
    assert.deepEqual([...ipc.subarray(0, 4)], [255, 255, 255, 255])
    const padded = new Uint8Array(ipc.length + 3)
    padded.set(ipc, 3)
    assert.equal((await db.insert('target', padded.subarray(3))).rowsAffected, 2)
    assert.deepEqual(
      [...(await db.query('SELECT * FROM target ORDER BY id'))],
      [
        { id: 1, name: 'a' },
        { id: 2, name: null },
      ],
    )
    assert.equal((await db.import('imported_arrow', ipc, { create: true })).rowsAffected, 2)
  })

  it('imports CSV, JSON lines, JSON and Parquet', async () => {
    const expected = [
      { id: 1, name: 'Ann' },
      { id: 2, name: 'Bén, "the" 🦀' },
    ]
    const parquet = parquetWriteBuffer({
      columnData: [
        { name: 'id', data: new Int32Array([1, 2]), type: 'INT32' },
        { name: 'name', data: expected.map(r => r.name), type: 'STRING' },
      ],
    })
    const files: Record<string, File> = {
      csv: new File([utf8('id,name\n1,Ann\n2,"Bén, ""the"" 🦀"\n') as never], 'people.csv'),
      ndjson: new File([utf8(expected.map(r => JSON.stringify(r)).join('\n')) as never], 'people.ndjson'),
      json: new File([utf8(JSON.stringify(expected)) as never], 'people.json'),
      parquet: new File([parquet], 'people.parquet'),
    }
    for (const [format, file] of Object.entries(files)) {
      await db.exec(`CREATE TABLE from_${format} (id INT PRIMARY KEY, name TEXT)`)
      const seen: ImportProgress[] = []
      const result = await db.import(`from_${format}`, file, { onProgress: p => seen.push(p) })
      assert.equal(result.rowsAffected, 2, format)
      assert.deepEqual([...(await db.query(`SELECT * FROM from_${format} ORDER BY id`))], expected, format)
      assert.equal(seen.at(-1)?.phase, 'done')
      assert.equal(seen.at(-1)?.rows, 2)
      assert.equal(seen.at(-1)?.bytes, file.size)
      assert.equal((await db.import(`made_from_${format}`, file, { create: true })).rowsAffected, 2, format)
      assert.equal((await db.queryOne(`SELECT count(*) AS n FROM made_from_${format}`))?.n, 2n)
    }
  })

  it('leaves nothing of an import that fails', async () => {
    await db.exec('CREATE TABLE checked (id INT PRIMARY KEY, n INT)')
    const failures: [Uint8Array, 'csv' | 'parquet' | 'json', RegExp][] = [
      [utf8('id,n\n1,1\n2,two\n'), 'csv', /line 3/],
      [utf8('PAR1 and then nothing'), 'parquet', /./],
      [utf8('[{"id": 1, "n": 1}, {"id": '), 'json', /./],
    ]
    for (const [bytes, format, message] of failures) {
      await assert.rejects(db.import('checked', bytes, { format }), (error: KalamError) => {
        assert.ok(error instanceof KalamError)
        assert.match(error.message, message)
        return true
      })
    }
    await assert.rejects(db.import('missing', utf8('id\n1\n'), { format: 'csv' }), code('TABLE_NOT_FOUND'))
    assert.deepEqual([...(await db.query('SELECT * FROM checked'))], [])
  })

  it('keeps memory databases apart, even of one name', async () => {
    const other = await connect({ name: 'test', storage: 'memory', int64: 'number' })
    await assert.rejects(other.query('SELECT * FROM people'), code('TABLE_NOT_FOUND'))
    assert.equal((await other.queryOne('SELECT CAST(5 AS BIGINT) AS n'))?.n, 5)
    await assert.rejects(other.query('SELECT 9007199254740993 AS n'), code('NUMERIC_VALUE_OUT_OF_RANGE'))
    await other.close()
    await assert.rejects(other.query('SELECT 1'), code('CONNECTION_CLOSED'))
    assert.equal((await db.query('SELECT 1 AS one')).length, 1)
  })
})
