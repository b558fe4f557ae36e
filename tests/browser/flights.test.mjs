// Three million flights imported, flushed, updated in 5 % of rows, compacted and reopened: the same answers as DuckDB's
// on the same file with the same changes.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { vega, vegaPath } from './lib/files.mjs'
import { browser } from './lib/harness.mjs'
import { asText, oracle } from './lib/oracle.mjs'

const b = browser({ extra: new Map([['/files/flights-3m.parquet', vega('flights-3m.parquet')]]) })

// In both dialects. The first touches 5 % of the rows, by a column that has nothing to do with their order.
const changes = [
  'UPDATE flights SET delay = delay + 1000, destination = origin WHERE distance % 20 = 7',
  "DELETE FROM flights WHERE origin = 'HNL' AND delay < 0",
  "INSERT INTO flights SELECT date, delay, distance, 'NEW', destination FROM flights WHERE origin = 'BOS' AND delay > 120",
]

const queries = {
  totals: `SELECT count(*), sum(delay), sum(distance), min(date), max(date), count(DISTINCT origin),
    min(delay), max(delay), min(destination), max(destination) FROM flights`,
  origins:
    'SELECT origin, count(*) AS n, sum(delay), max(distance) FROM flights GROUP BY origin ORDER BY n DESC, origin',
  months: `SELECT CAST(extract(year FROM date) AS BIGINT) AS y, CAST(extract(month FROM date) AS BIGINT) AS m, count(*), sum(distance)
    FROM flights GROUP BY 1, 2 ORDER BY 1, 2`,
  updated: 'SELECT count(*), sum(delay) FROM flights WHERE distance % 20 = 7',
  untouched: 'SELECT count(*), sum(delay) FROM flights WHERE distance % 20 <> 7',
  gone: "SELECT count(*) FROM flights WHERE origin = 'HNL'",
  added: "SELECT count(*), sum(delay), min(destination) FROM flights WHERE origin = 'NEW'",
  pruned: `SELECT count(*), sum(delay) FROM flights WHERE date >= '2001-03-01' AND date < '2001-03-08'`,
  longest: `SELECT origin, destination, distance, count(*) FROM flights WHERE distance > 2500
    GROUP BY 1, 2, 3 ORDER BY 3 DESC, 4 DESC, 1, 2 LIMIT 50`,
  ranked: `SELECT * FROM (SELECT origin, destination, count(*) AS n,
      row_number() OVER (PARTITION BY origin ORDER BY count(*) DESC, destination) AS place
    FROM flights GROUP BY 1, 2) AS r WHERE place <= 2 ORDER BY origin, place`,
  pairs: `SELECT a.origin, count(*) FROM (SELECT DISTINCT origin, destination FROM flights) a
    JOIN (SELECT DISTINCT origin, destination FROM flights) b ON a.origin = b.destination AND a.destination = b.origin
    GROUP BY 1 ORDER BY 1`,
}

const answers = page =>
  page.evaluate(async queries => {
    const found = {}
    for (const [name, sql] of Object.entries(queries)) {
      const rows = await db.query(sql)
      found[name] = { columns: rows.columns, rows: rows.map(row => rows.columns.map(c => row[c.name])) }
    }
    return found
  }, queries)

test('three million flights give DuckDB’s answers', { timeout: 600_000 }, async t => {
  const expected = oracle({
    setup: [`CREATE TABLE flights AS SELECT * FROM read_parquet('${vegaPath('flights-3m.parquet')}')`, ...changes],
    queries,
  })
  const manifest = await b.page.evaluate(async changes => {
    window.db = await kalamdb.connect('flights')
    await db.exec('CREATE TABLE flights (date TIMESTAMP, delay BIGINT, distance BIGINT, origin TEXT, destination TEXT)')
    await db.import('flights', new URL('files/flights-3m.parquet', location.href))
    await db.exec('STORAGE FLUSH ALL')
    for (const sql of changes) await db.exec(sql)
    await db.exec('STORAGE FLUSH ALL')
    await db.exec('STORAGE COMPACT ALL')
    const segments = await db.query('SHOW MANIFEST flights')
    await db.close()
    return segments.length
  }, changes)
  t.diagnostic(`${manifest} segments`)
  assert.ok(manifest > 5, `three million rows lie in ${manifest} segments`)

  await b.restart()
  await b.page.evaluate(async () => {
    window.db = await kalamdb.connect('flights')
  })
  const found = await answers(b.page)
  for (const [name, { columns, rows }] of Object.entries(found)) {
    const texts = rows.map(row => row.map((value, i) => asText(value, columns[i].type)))
    assert.deepEqual(texts, expected[name], name)
  }
})
