// Who may open what: one engine per database, several databases per origin, deletion.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { browser, failsWith } from './lib/harness.mjs'

const b = browser()

describe('a second tab', () => {
  let other
  before(async () => {
    other = await b.newPage()
    await b.page.evaluate(async () => {
      window.db = await kalamdb.connect('shared')
      await window.db.exec('CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1)')
    })
  })
  after(() => other.close())

  test('gets DATABASE_LOCKED while the first has the database open', async () => {
    const error = failsWith(await other.evaluate(() => attempt(() => kalamdb.connect('shared'))), 'DATABASE_LOCKED')
    assert.equal(error.sqlstate, '55006')
    assert.equal(error.retryable, true)
    assert.ok(error.hint, 'a hint says what to do')
    // The first tab has not noticed.
    assert.deepEqual(await b.page.evaluate(() => window.db.query('SELECT id FROM t')), [{ id: 1 }])
  })

  test('so does a second connection of the same tab', async () => {
    failsWith(await b.page.evaluate(() => attempt(() => kalamdb.connect('shared'))), 'DATABASE_LOCKED')
  })

  test('cannot delete the database under the first', async () => {
    failsWith(await other.evaluate(() => attempt(() => kalamdb.deleteDatabase('shared'))), 'DATABASE_LOCKED')
    assert.deepEqual(await b.page.evaluate(() => window.db.query('SELECT id FROM t')), [{ id: 1 }])
  })

  test('may open another database, and what each holds is its own', async () => {
    const rows = await other.evaluate(async () => {
      const db = await kalamdb.connect('other')
      await db.exec('CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (2), (3)')
      const rows = await db.query('SELECT id FROM t ORDER BY id')
      await db.close()
      return rows
    })
    assert.deepEqual(rows, [{ id: 2 }, { id: 3 }])
    assert.deepEqual(await b.page.evaluate(() => window.db.query('SELECT id FROM t')), [{ id: 1 }])
  })

  test('opens it once the first has closed', async () => {
    await b.page.evaluate(() => window.db.close())
    const rows = await other.evaluate(async () => {
      window.db = await kalamdb.connect('shared')
      return window.db.query('SELECT id FROM t')
    })
    assert.deepEqual(rows, [{ id: 1 }])
  })

  test('gives it free when the tab goes without closing', async () => {
    await other.close()
    const rows = await b.page.evaluate(async () => {
      const db = await connectWhenFree('shared')
      const rows = await db.query('SELECT id FROM t')
      await db.close()
      return rows
    })
    assert.deepEqual(rows, [{ id: 1 }])
    other = await b.newPage()
  })
})

describe('two databases side by side', () => {
  test('in one tab, at the same time, after a reload too', async () => {
    const read = () =>
      b.page.evaluate(async () => {
        const [left, right] = await Promise.all([kalamdb.connect('left'), kalamdb.connect('right')])
        for (const [db, name] of [
          [left, 'left'],
          [right, 'right'],
        ]) {
          await db.exec('CREATE TABLE IF NOT EXISTS names (name TEXT)')
          await db.exec('INSERT INTO names VALUES ($1)', [name])
        }
        const rows = [await left.query('SELECT name FROM names'), await right.query('SELECT name FROM names')]
        await Promise.all([left.close(), right.close()])
        return rows
      })
    assert.deepEqual(await read(), [[{ name: 'left' }], [{ name: 'right' }]])
    await b.page.reload()
    await b.page.waitForFunction(() => window.ready)
    assert.deepEqual(await read(), [
      [{ name: 'left' }, { name: 'left' }],
      [{ name: 'right' }, { name: 'right' }],
    ])
  })
})

describe('deleteDatabase', () => {
  test('leaves nothing behind, and the name is free again', async () => {
    const result = await b.page.evaluate(async () => {
      const first = await kalamdb.connect('doomed')
      await first.exec('CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1)')
      await first.close()
      await kalamdb.deleteDatabase('doomed')
      const left = (await indexedDB.databases()).map(one => one.name).filter(name => name.includes('doomed'))
      const second = await kalamdb.connect('doomed')
      const table = await attempt(() => second.query('SELECT * FROM t'))
      await second.close()
      return { left, table }
    })
    assert.deepEqual(result.left, [])
    failsWith(result.table, 'TABLE_NOT_FOUND')
  })

  test('of a database that never was is no error, and makes none', async () => {
    const names = await b.page.evaluate(async () => {
      await kalamdb.deleteDatabase('never-was')
      return (await indexedDB.databases()).map(one => one.name)
    })
    assert.ok(!names.some(name => name.includes('never-was')))
  })
})

describe('rescue', () => {
  test('of a database that never was is DATABASE_NOT_FOUND, and makes none', async () => {
    const { first, second, names } = await b.page.evaluate(async () => {
      const first = await attempt(() => kalamdb.rescue('never-there'))
      const second = await attempt(() => kalamdb.rescue({ name: 'never-there' }))
      return { first, second, names: (await indexedDB.databases()).map(one => one.name) }
    })
    for (const outcome of [first, second]) {
      const error = failsWith(outcome, 'DATABASE_NOT_FOUND')
      assert.equal(error.sqlstate, '3D000')
      assert.match(error.message, /'never-there' does not exist/)
    }
    assert.ok(!names.some(name => name.includes('never-there')), names.join())
  })

  test('of a sound database gives all of it, and the name is free afterwards', async () => {
    const result = await b.page.evaluate(async () => {
      const first = await kalamdb.connect('to-rescue')
      await first.exec('CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1), (2)')
      const locked = await attempt(() => kalamdb.rescue('to-rescue'))
      await first.close()
      const { bytes, report } = await kalamdb.rescue('to-rescue')
      const copy = await kalamdb.connect({ name: 'rescued', storage: 'memory', restore: bytes })
      const rows = await copy.query('SELECT id FROM t ORDER BY id')
      await copy.close()
      const again = await kalamdb.connect('to-rescue')
      await again.exec('INSERT INTO t VALUES (3)')
      const own = await again.query('SELECT id FROM t ORDER BY id')
      await again.close()
      return { locked, sound: report.every(row => row.status === 'ok'), rows, own }
    })
    failsWith(result.locked, 'DATABASE_LOCKED')
    assert.equal(result.sound, true)
    assert.deepEqual(result.rows, [{ id: 1 }, { id: 2 }])
    assert.deepEqual(result.own, [{ id: 1 }, { id: 2 }, { id: 3 }])
  })
})

describe('close', () => {
  test('waits for what is running; later calls get CONNECTION_CLOSED; closing again is harmless', async () => {
    const result = await b.page.evaluate(async () => {
      const db = await kalamdb.connect('closing')
      await db.exec('CREATE TABLE IF NOT EXISTS t (id INT PRIMARY KEY)')
      const running = db.exec('INSERT INTO t VALUES (1), (2)')
      await db.close()
      const { rowsAffected } = await running
      const late = await attempt(() => db.query('SELECT 1'))
      await db.close()
      const again = await kalamdb.connect('closing')
      const rows = await again.query('SELECT id FROM t ORDER BY id')
      await again.close()
      return { rowsAffected, late, rows }
    })
    assert.equal(result.rowsAffected, 2)
    failsWith(result.late, 'CONNECTION_CLOSED')
    assert.deepEqual(result.rows, [{ id: 1 }, { id: 2 }])
  })
})

describe('status', () => {
  test('tells where the data lives and what it takes', async () => {
    const status = await b.page.evaluate(async () => {
      const db = await kalamdb.connect({ name: 'told', nodeId: 'test-1' })
      await db.exec("CREATE TABLE t (id INT PRIMARY KEY, body TEXT); INSERT INTO t VALUES (1, 'x')")
      const status = await db.status()
      await db.close()
      return status
    })
    assert.equal(status.role, 'single')
    assert.equal(status.storage, 'indexeddb')
    assert.equal(status.nodeId, 'test-1')
    assert.match(status.version, /^\d+\.\d+\.\d+/)
    assert.ok(status.records > 0, `${status.records} records`)
    assert.ok(status.usage > 0 && status.quota > status.usage)
    assert.ok(status.memory.wasm > 0)
  })

  test('a generated node id is kept', async () => {
    const ids = await b.page.evaluate(async () => {
      const ids = []
      for (let at = 0; at < 2; at++) {
        const db = await kalamdb.connect('node-id')
        ids.push((await db.status()).nodeId)
        await db.close()
      }
      return ids
    })
    assert.match(ids[0], /^[A-Za-z0-9-]{1,64}$/)
    assert.equal(ids[0], ids[1])
  })
})

test('an engine in the page itself, without a worker, does the same', async () => {
  const rows = await b.page.evaluate(async () => {
    const db = await kalamdb.connect({ name: 'inline', worker: false })
    await db.exec('CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (7)')
    await db.close()
    const again = await kalamdb.connect({ name: 'inline', worker: true })
    const rows = await again.query('SELECT id FROM t')
    await again.close()
    return rows
  })
  assert.deepEqual(rows, [{ id: 7 }])
})

test('connect tells its progress and ends with ready', async () => {
  const phases = await b.page.evaluate(async () => {
    const phases = []
    const db = await kalamdb.connect({ name: 'progress', onProgress: ({ phase }) => phases.push(phase) })
    await db.close()
    return phases
  })
  assert.equal(phases.at(-1), 'ready')
})
