// Acknowledged rows outlive reloads and restarts, exactly as they were, whatever durability was asked for.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { browser } from './lib/harness.mjs'

const b = browser()

// Every type that the first cut stores, its edges, and NULL.
const fill = async ({ name, durability }) => {
  const db = await connectWhenFree({ name, durability })
  await db.exec(`
    CREATE NAMESPACE IF NOT EXISTS shop;
    CREATE TABLE shop.everything (
      id BIGINT PRIMARY KEY, flag BOOLEAN, small SMALLINT, num INT, real DOUBLE, single FLOAT, txt TEXT,
      ts TIMESTAMP, day DATE, dt DATETIME, tm TIME, doc JSON, raw BYTES, vec EMBEDDING(3), uid UUID, price DECIMAL(10,2));
    CREATE TABLE nokey (a TEXT, b BIGINT)`)
  await db.insert('shop.everything', [
    {
      id: 1n,
      flag: true,
      small: -32768,
      num: 2147483647,
      real: 0.1,
      single: 1.5,
      txt: 'Grüße, 世界 🌍 \u0000 end',
      ts: new Date('2024-02-29T12:34:56.789Z'),
      day: new Date('1969-12-31'),
      dt: new Date('2001-01-01T00:00:00.001Z'),
      tm: '23:59:59.123456',
      doc: { a: [1, null, 'x'], b: { c: true } },
      raw: new Uint8Array([0, 255, 7]),
      vec: new Float32Array([0.1, -2, 3e30]),
      uid: '018f3e5c-0000-7000-8000-0123456789ab',
      price: '-12345678.90',
    },
    { id: 9223372036854775807n, txt: '' },
    { id: -9223372036854775808n, flag: false, real: -0.5 },
  ])
  await db.exec("INSERT INTO nokey VALUES ('one', 1), ('two', NULL), (NULL, 3)")
  await db.exec("UPDATE nokey SET b = 22 WHERE a = 'two'")
  await db.exec('DELETE FROM nokey WHERE a IS NULL')
  for (let at = 0; at < 20; at++) await db.exec('INSERT INTO nokey VALUES ($1, $2)', [`row ${at}`, at])
  // Not closed: whatever was acknowledged must be there without a farewell.
  return { everything: await readEverything(db), nokey: await readNokey(db) }
}

const read = async ({ name }) => {
  const db = await connectWhenFree({ name })
  const found = { everything: await readEverything(db), nokey: await readNokey(db) }
  await db.close()
  return found
}

async function withReaders(page) {
  await page.evaluate(() => {
    window.readEverything = db => db.query('SELECT * FROM shop.everything ORDER BY id')
    window.readNokey = db => db.query('SELECT a, b FROM nokey ORDER BY b, a')
  })
  return page
}

for (const durability of ['relaxed', 'strict']) {
  describe(durability, () => {
    const name = `kept-${durability}`
    let written

    test('what is read back is what was written', async () => {
      written = await (await withReaders(b.page)).evaluate(fill, { name, durability })
      assert.equal(written.everything.length, 3)
      const [lowest, one, highest] = written.everything
      assert.equal(lowest.id, -9223372036854775808n)
      assert.equal(highest.id, 9223372036854775807n)
      assert.equal(highest.txt, '')
      assert.equal(highest.flag, null)
      assert.equal(one.txt, 'Grüße, 世界 🌍 \u0000 end')
      assert.equal(one.ts.toISOString(), '2024-02-29T12:34:56.789Z')
      assert.equal(one.day.toISOString(), '1969-12-31T00:00:00.000Z')
      assert.deepEqual(one.doc, { a: [1, null, 'x'], b: { c: true } })
      assert.equal(one.price, '-12345678.90')
      assert.equal(one.uid, '018f3e5c-0000-7000-8000-0123456789ab')
      assert.deepEqual([...one.raw], [0, 255, 7])
      assert.deepEqual([...one.vec], [Math.fround(0.1), -2, Math.fround(3e30)])
      assert.equal(written.nokey.length, 22)
      assert.deepEqual(
        written.nokey.filter(row => !row.a.startsWith('row')),
        [
          { a: 'one', b: 1n },
          { a: 'two', b: 22n },
        ],
      )
    })

    test('a reload keeps every row', async () => {
      await b.page.reload()
      await b.page.waitForFunction(() => window.ready)
      assert.deepEqual(await (await withReaders(b.page)).evaluate(read, { name }), written)
    })

    test('a restart of the browser keeps every row', async () => {
      await b.restart()
      assert.deepEqual(await (await withReaders(b.page)).evaluate(read, { name }), written)
    })

    test('SIGKILL of the whole browser right after the acknowledgement keeps every row', async () => {
      const last = await b.page.evaluate(
        async ({ name, durability }) => {
          const db = await connectWhenFree({ name, durability })
          await db.exec("INSERT INTO nokey VALUES ('last words', 99)")
          return db.query('SELECT a, b FROM nokey ORDER BY b, a')
        },
        { name, durability },
      )
      await b.restart({ kill: true })
      const found = await (await withReaders(b.page)).evaluate(read, { name })
      assert.deepEqual(found, { everything: written.everything, nokey: last })
    })
  })
}

test('a receipt says what was promised', async () => {
  const receipts = await b.page.evaluate(async () => {
    const db = await kalamdb.connect('receipts')
    await db.exec('CREATE TABLE r (id INT PRIMARY KEY)')
    const given = []
    for (const durability of [undefined, 'relaxed', 'strict']) {
      const {
        rowsAffected,
        seq,
        durability: promised,
      } = await db.exec(`INSERT INTO r VALUES (${given.length})`, [], durability ? { durability } : {})
      given.push({ rowsAffected, seq, promised })
    }
    await db.close()
    return given
  })
  assert.deepEqual(
    receipts.map(one => [one.rowsAffected, one.promised]),
    [
      [1, 'relaxed'],
      [1, 'relaxed'],
      [1, 'strict'],
    ],
  )
  assert.ok(receipts[0].seq < receipts[1].seq && receipts[1].seq < receipts[2].seq, 'seq grows')
})
