// Exports: a folder of plain Parquet files that DuckDB and pyarrow read to the same rows, from hot rows and segments,
// after updates, deletes and ALTERs; the other formats come back through import; streams give every row once.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { browser, failsWith } from './lib/harness.mjs'
import { asText, oracle } from './lib/oracle.mjs'

const types = `id BIGINT PRIMARY KEY, b BOOLEAN, s SMALLINT, i INT, d DOUBLE, f FLOAT, dec DECIMAL(12,2), t TEXT,
  ts TIMESTAMP, dt DATETIME, day DATE, clock TIME, j JSON, bin BYTES, e EMBEDDING(3), u UUID`

const b = browser({
  ready: page =>
    page.evaluate(async types => {
      window.db = await kalamdb.connect('exports')
      await db.exec(`CREATE TABLE everything (${types})`)
      const rows = Array.from({ length: 3000 }, (_, n) =>
        n % 7 === 3
          ? { id: BigInt(n) }
          : {
              id: BigInt(n),
              b: n % 2 === 0,
              s: (n % 60_000) - 30_000,
              i: n * 1000,
              d: n / 3,
              f: n / 4,
              dec: `${n}.${String(n % 100).padStart(2, '0')}`,
              t: n % 5 === 0 ? '' : `row ${n}, "ü" 🦀\n${'x'.repeat(n % 30)}`,
              ts: new Date(n * 86_400_123),
              dt: new Date(Date.UTC(2024, 0, 1) + n * 1001),
              day: new Date(n * 86_400_000),
              clock: '12:34:56.789012',
              j: { n, list: [1, null, 'ü'] },
              bin: new Uint8Array([n % 256, 0, 255]),
              e: new Float32Array([n, -0.5, 0.25]),
              u: `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`,
            },
      )
      await db.insert('everything', rows.slice(0, 1500))
      await db.exec('STORAGE FLUSH ALL')
      await db.insert('everything', rows.slice(1500, 2500))
      await db.exec('STORAGE FLUSH ALL')
      await db.insert('everything', rows.slice(2500))
      await db.exec("UPDATE everything SET t = 'changed', i = i + 1 WHERE id % 10 = 4")
      await db.exec('DELETE FROM everything WHERE id % 13 = 5')
      await db.exec('ALTER TABLE everything ADD COLUMN late INT DEFAULT 42')
      await db.exec('ALTER TABLE everything DROP COLUMN clock')
      await db.exec('ALTER TABLE everything RENAME COLUMN b TO flag')
    }, types),
})

const all = page =>
  page.evaluate(async () => {
    const rows = await db.query('SELECT * FROM everything ORDER BY id')
    return { columns: rows.columns, rows: rows.map(row => rows.columns.map(c => row[c.name])) }
  })

test('a folder of Parquet files is read by DuckDB and pyarrow to the same rows', async () => {
  const { columns, rows } = await all(b.page)
  const files = await b.page.evaluate(async () => {
    const files = []
    for await (const file of db.exportFiles('everything', { rowsPerFile: 1000 }))
      files.push([file.name, [...file.bytes]])
    return files
  })
  assert.deepEqual(
    files.map(([name]) => name),
    ['part-00000.parquet', 'part-00001.parquet', 'part-00002.parquet'],
  )
  const folder = mkdtempSync(join(tmpdir(), 'kalamdb-export-'))
  try {
    for (const [name, bytes] of files) writeFileSync(join(folder, name), new Uint8Array(bytes))
    const found = oracle({ folder, order: ['id'] })
    assert.equal(found.files, 3)
    const expected = rows.map(row =>
      row.map((value, c) => {
        const { type } = columns[c]
        // Parquet has the bytes of a UUID, and JSON as it was written.
        if (type === 'UUID' && value !== null) return value.replaceAll('-', '')
        if (type === 'JSON' && value !== null) return JSON.stringify(value)
        return asText(value, type)
      }),
    )
    for (const reader of ['duckdb', 'pyarrow']) {
      assert.equal(found[reader].length, expected.length, reader)
      const jsonColumn = columns.findIndex(c => c.type === 'JSON')
      const normal = row => row.map((v, c) => (c === jsonColumn && v !== null ? JSON.stringify(JSON.parse(v)) : v))
      for (const [at, row] of expected.entries())
        assert.deepEqual(normal(found[reader][at]), row, `${reader}, row ${at}`)
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

for (const format of ['parquet', 'arrow', 'csv', 'json', 'ndjson']) {
  test(`what is exported as ${format} is imported to the same rows`, async () => {
    const [before, after] = await b.page.evaluate(async format => {
      const bytes = await db.export('SELECT * FROM everything', { format })
      await db.exec('DROP TABLE IF EXISTS again')
      await db.exec('CREATE TABLE again AS SELECT * FROM everything WHERE false')
      await db.import('again', bytes, { format })
      const rows = table => db.query(`SELECT * FROM ${table} ORDER BY id`)
      return Promise.all([rows('everything'), rows('again')])
    }, format)
    assert.deepEqual(after, before)
  })
}

test('a stream gives every row once, of one snapshot', async () => {
  const { sizes, ids, columns } = await b.page.evaluate(async () => {
    const [sizes, ids] = [[], []]
    let columns
    for await (const rows of db.stream('SELECT id FROM everything WHERE id >= $1 ORDER BY id', [100n], {
      batchSize: 700,
    })) {
      // Changes in between are not seen.
      await db.exec('INSERT INTO everything (id) VALUES ($1)', [10_000 + sizes.length])
      sizes.push(rows.length)
      ids.push(...rows.map(row => row.id))
      columns = rows.columns
    }
    await db.exec('DELETE FROM everything WHERE id >= 10000')
    return { sizes, ids, columns }
  })
  const { rows } = await all(b.page)
  assert.deepEqual(
    ids,
    rows.map(([id]) => id).filter(id => id >= 100n),
  )
  assert.ok(sizes.slice(0, -1).every(size => size === 700))
  assert.deepEqual(columns, [{ name: 'id', type: 'BIGINT', nullable: false }])
})

test('errors of streams and exports are typed, and the database works on', async () => {
  const attempt = work => b.page.evaluate(work)
  const outcomes = await attempt(async () => {
    const outcome = async work => {
      try {
        return { value: await work() }
      } catch (error) {
        return { error: { typed: error instanceof kalamdb.KalamError, ...error.toJSON(), message: error.message } }
      }
    }
    const drain = async rows => {
      for await (const _ of rows);
    }
    return [
      await outcome(() => drain(db.stream('SELECT * FROM nowhere'))),
      await outcome(() => drain(db.stream('SELECT 1 / (id - 6) FROM everything ORDER BY id'))),
      await outcome(() => db.export('nowhere')),
      await outcome(() => drain(db.stream('SELECT 1', [], { batchSize: 0 }))),
      await outcome(() => db.queryOne('SELECT count(*) > 0 AS there FROM everything')),
    ]
  })
  failsWith(outcomes[0], 'TABLE_NOT_FOUND')
  failsWith(outcomes[1], 'DIVISION_BY_ZERO')
  failsWith(outcomes[2], 'TABLE_NOT_FOUND')
  failsWith(outcomes[3], 'INVALID_OPTION')
  assert.equal(outcomes[4].value.there, true)
})
