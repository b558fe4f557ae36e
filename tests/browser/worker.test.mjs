// The engine's worker dies, or its instance traps: every call settles with a typed error, and the next one works.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { browser } from './lib/harness.mjs'

const b = browser({
  ready: page =>
    page.evaluate(async () => {
      window.db = await kalamdb.connect('worker')
      await window.db.exec("CREATE TABLE t (id INT PRIMARY KEY, body TEXT); INSERT INTO t VALUES (1, 'kept')")
    }),
})

test('a worker that ends under load', async () => {
  // Three writers and a reader, each at it until a call fails: there is always something in flight.
  const outcomes = b.page.evaluate(async () => {
    const size = 20_000
    const batch = at => Array.from({ length: size }, (_, n) => ({ id: 1000 + at * size + n, body: 'x'.repeat(20) }))
    const settled = []
    let next = 0
    const write = async () => {
      for (;;) {
        const at = next++
        const { error } = await attempt(() => db.insert('t', batch(at), { timeoutMs: 4000 }))
        settled.push({ at, error })
        if (error) return
        window.loaded = true
      }
    }
    const read = async () => {
      for (;;) {
        const { error } = await attempt(() => db.query('SELECT count(*) AS n FROM t', [], { timeoutMs: 4000 }))
        if (!error) continue
        settled.push({ error })
        return
      }
    }
    await Promise.all([write(), write(), write(), read()])
    return settled
  })
  outcomes.catch(() => {})
  await b.page.waitForFunction(() => window.loaded)
  const [worker] = b.page.workers()
  assert.ok(worker, 'the engine runs in a worker')
  await worker.evaluate(() => self.close()).catch(() => {})

  const settled = await outcomes
  const lost = settled.filter(({ error }) => error)
  assert.equal(lost.length, 4, 'every writer and the reader heard of it')
  for (const { error } of lost) {
    assert.ok(error.typed, error.message)
    assert.ok(['INTERNAL_ERROR', 'TIMEOUT'].includes(error.code), `${error.code}: ${error.message}`)
  }

  const kept = await b.page.evaluate(() => db.query('SELECT id, body FROM t WHERE id < 1000'))
  assert.deepEqual(kept, [{ id: 1, body: 'kept' }])
  const batches = await b.page.evaluate(() =>
    db.query('SELECT (id - 1000) / 20000 AS batch, count(*) AS n FROM t WHERE id >= 1000 GROUP BY 1 ORDER BY 1'),
  )
  for (const one of batches) assert.equal(one.n, 20_000n, `batch ${one.batch} is whole`)
  const found = new Set(batches.map(one => Number(one.batch)))
  for (const { at, error } of settled) {
    if (at !== undefined && !error) assert.ok(found.has(at), `batch ${at} was acknowledged`)
  }
})

test('statements deep enough to exhaust a stack end in a typed error or a result', async () => {
  const deep = {
    parentheses: `SELECT ${'('.repeat(20_000)}1${')'.repeat(20_000)}`,
    'a long sum': `SELECT ${Array(20_000).fill('1').join(' + ')} AS n`,
    'nested subqueries': `${'SELECT * FROM ('.repeat(2000)}SELECT 1${')'.repeat(2000)}`,
    'a long AND': `SELECT * FROM t WHERE ${Array(20_000).fill('id > 0').join(' AND ')} AND id < 1000`,
    'nested CASE': `SELECT ${'CASE WHEN true THEN '.repeat(3000)}1${' END'.repeat(3000)}`,
  }
  const rows = await b.page.evaluate(async () => {
    window.deep = await kalamdb.connect('deep')
    await window.deep.exec("CREATE TABLE t (id INT PRIMARY KEY, body TEXT); INSERT INTO t VALUES (1, 'kept')")
    return window.deep.query('SELECT id, body FROM t')
  })
  for (const [what, sql] of Object.entries(deep)) {
    const outcome = await b.page.evaluate(sql => attempt(() => window.deep.query(sql)), sql)
    if (outcome.error) {
      assert.ok(outcome.error.typed, `${what}: ${outcome.error.message}`)
      assert.doesNotMatch(outcome.error.message, /panicked|unreachable/, what)
    }
    const kept = await b.page.evaluate(() => window.deep.query('SELECT id, body FROM t'))
    assert.deepEqual(kept, rows, `after ${what}`)
  }
})
