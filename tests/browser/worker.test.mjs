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

const rows = () => b.page.evaluate(() => db.query('SELECT id, body FROM t WHERE id < 1000 ORDER BY id'))

test('a worker that ends under load', async () => {
  const outcomes = b.page.evaluate(async () => {
    const batch = at => Array.from({ length: 20_000 }, (_, n) => ({ id: 1000 + at * 20_000 + n, body: 'x'.repeat(20) }))
    const calls = [0, 1, 2, 3, 4, 5].map(at => attempt(() => db.insert('t', batch(at), { timeoutMs: 4000 })))
    calls.push(attempt(() => db.query('SELECT count(*) AS n FROM t', [], { timeoutMs: 4000 })))
    window.loaded = true
    return Promise.all(calls)
  })
  outcomes.catch(() => {})
  await b.page.waitForFunction(() => window.loaded)
  const [worker] = b.page.workers()
  assert.ok(worker, 'the engine runs in a worker')
  await worker.evaluate(() => self.close()).catch(() => {})

  let lost = 0
  const settled = await outcomes
  for (const { error } of settled) {
    if (!error) continue
    lost++
    assert.ok(error.typed, error.message)
    assert.ok(['INTERNAL_ERROR', 'TIMEOUT'].includes(error.code), `${error.code}: ${error.message}`)
  }
  assert.ok(lost > 0, 'the worker was gone before everything was answered')

  assert.deepEqual(await rows(), [{ id: 1, body: 'kept' }])
  const batches = await b.page.evaluate(() =>
    db.query('SELECT (id - 1000) / 20000 AS batch, count(*) AS n FROM t WHERE id >= 1000 GROUP BY 1 ORDER BY 1'),
  )
  for (const one of batches) assert.equal(one.n, 20_000n, `batch ${one.batch} is whole`)
  const found = new Set(batches.map(one => Number(one.batch)))
  for (const [at, { value }] of settled.slice(0, 6).entries()) {
    if (value) assert.ok(found.has(at), `batch ${at} was acknowledged`)
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
  for (const [what, sql] of Object.entries(deep)) {
    const outcome = await b.page.evaluate(sql => attempt(() => db.query(sql)), sql)
    if (outcome.error) {
      assert.ok(outcome.error.typed, `${what}: ${outcome.error.message}`)
      assert.doesNotMatch(outcome.error.message, /panicked|unreachable/, what)
    }
    assert.deepEqual(await rows(), [{ id: 1, body: 'kept' }], `after ${what}`)
  }
})
