// Query shapes that need a tokio reactor elsewhere, and queries too large: they work, or end in a typed error.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { browser, failsWith } from './lib/harness.mjs'

const b = browser({
  ready: page =>
    page.evaluate(async () => {
      window.db = await kalamdb.connect({ name: 'queries', memoryLimit: 16 * 1024 * 1024 })
      await window.db.exec(`
      CREATE TABLE a (id INT PRIMARY KEY, tag TEXT);
      INSERT INTO a VALUES (1, 'x'), (2, 'y'), (3, 'x'), (4, NULL);
      CREATE TABLE b (id INT PRIMARY KEY, tag TEXT);
      INSERT INTO b VALUES (3, 'x'), (4, NULL), (5, 'z')`)
    }),
})
const query = (sql, params) => b.page.evaluate(({ sql, params }) => db.query(sql, params), { sql, params })

describe('set operations', () => {
  test('UNION ALL keeps every row', async () => {
    const rows = await query('SELECT id FROM a UNION ALL SELECT id FROM b ORDER BY id')
    assert.deepEqual(
      rows.map(row => row.id),
      [1, 2, 3, 3, 4, 4, 5],
    )
  })

  test('UNION ALL of many inputs', async () => {
    const parts = Array.from({ length: 40 }, (_, at) => `SELECT id, ${at} AS part FROM a`)
    const [row] = await query(`SELECT count(*) AS n, sum(part) AS s FROM (${parts.join(' UNION ALL ')})`)
    assert.deepEqual(row, { n: 160n, s: 3120n })
  })

  test('UNION drops doubles, NULL included', async () => {
    const rows = await query('SELECT tag FROM a UNION SELECT tag FROM b ORDER BY tag NULLS FIRST')
    assert.deepEqual(
      rows.map(row => row.tag),
      [null, 'x', 'y', 'z'],
    )
  })

  test('EXCEPT', async () => {
    const rows = await query('SELECT id, tag FROM a EXCEPT SELECT id, tag FROM b ORDER BY id')
    assert.deepEqual(
      rows.map(row => row.id),
      [1, 2],
    )
  })

  test('INTERSECT', async () => {
    const rows = await query('SELECT id, tag FROM a INTERSECT SELECT id, tag FROM b ORDER BY id')
    assert.deepEqual(rows, [
      { id: 3, tag: 'x' },
      { id: 4, tag: null },
    ])
  })
})

describe('EXPLAIN', () => {
  test('shows a plan', async () => {
    const rows = await query('EXPLAIN SELECT tag, count(*) FROM a GROUP BY tag')
    assert.match(JSON.stringify(rows), /Aggregate/)
  })

  test('of a change changes nothing', async () => {
    await query('EXPLAIN DELETE FROM a')
    assert.deepEqual(await query('SELECT count(*) AS n FROM a'), [{ n: 4n }])
  })

  test('ANALYZE runs and counts', async () => {
    const rows = await query('EXPLAIN ANALYZE SELECT tag, count(*) FROM a GROUP BY tag')
    assert.match(JSON.stringify(rows), /output_rows/)
  })

  test('ANALYZE over several inputs', async () => {
    const rows = await query('EXPLAIN ANALYZE SELECT id FROM a UNION ALL SELECT id FROM b')
    assert.match(JSON.stringify(rows), /output_rows/)
  })

  test('ANALYZE of a change is refused or changes nothing', async () => {
    await b.page.evaluate(() => attempt(() => db.query('EXPLAIN ANALYZE DELETE FROM a')))
    assert.deepEqual(await query('SELECT count(*) AS n FROM a'), [{ n: 4n }])
  })
})

describe('shapes', () => {
  test('joins of every kind', async () => {
    const counts = {}
    for (const kind of ['JOIN', 'LEFT JOIN', 'RIGHT JOIN', 'FULL JOIN', 'LEFT SEMI JOIN', 'LEFT ANTI JOIN']) {
      const [row] = await query(`SELECT count(*) AS n FROM (SELECT a.id FROM a ${kind} b ON a.id = b.id)`)
      counts[kind] = Number(row.n)
    }
    const [cross] = await query('SELECT count(*) AS n FROM a CROSS JOIN b')
    assert.equal(cross.n, 12n)
    assert.deepEqual(counts, {
      JOIN: 2,
      'LEFT JOIN': 4,
      'RIGHT JOIN': 3,
      'FULL JOIN': 5,
      'LEFT SEMI JOIN': 2,
      'LEFT ANTI JOIN': 2,
    })
  })

  test('windows, CTEs, correlated subqueries', async () => {
    const rows = await query(`WITH both AS (SELECT id, tag FROM a UNION ALL SELECT id, tag FROM b)
      SELECT id, row_number() OVER (PARTITION BY tag ORDER BY id) AS place,
        (SELECT count(*) FROM b WHERE b.id = both.id) AS same
      FROM both WHERE tag = 'x' ORDER BY id, place`)
    assert.deepEqual(rows, [
      { id: 1, place: 1n, same: 0n },
      { id: 3, place: 2n, same: 1n },
      { id: 3, place: 3n, same: 1n },
    ])
  })

  test('DELETE and UPDATE with a subquery touch what it selects, no more', async () => {
    const result = await b.page.evaluate(async () => {
      await db.exec('CREATE TABLE c (id INT PRIMARY KEY, n INT); INSERT INTO c VALUES (1, 0), (2, 0), (3, 0), (4, 0)')
      const updated = await db.exec('UPDATE c SET n = (SELECT count(*) FROM b) WHERE id IN (SELECT id FROM b)')
      const deleted = await db.exec('DELETE FROM c WHERE NOT EXISTS (SELECT 1 FROM a WHERE a.id = c.id AND a.id > 1)')
      const rows = await db.query('SELECT * FROM c ORDER BY id')
      await db.exec('DROP TABLE c')
      return { updated: updated.rowsAffected, deleted: deleted.rowsAffected, rows }
    })
    assert.deepEqual(result, {
      updated: 2,
      deleted: 1,
      rows: [
        { id: 2, n: 0 },
        { id: 3, n: 3 },
        { id: 4, n: 3 },
      ],
    })
  })

  test('columns carry names and types', async () => {
    const columns = await b.page.evaluate(
      async () => (await db.query('SELECT id, tag, count(*) OVER () AS n FROM a')).columns,
    )
    assert.deepEqual(
      columns.map(({ name, type }) => [name, type]),
      [
        ['id', 'INT'],
        ['tag', 'TEXT'],
        ['n', 'BIGINT'],
      ],
    )
  })

  test('a result of 300 000 rows arrives whole and in order', async () => {
    const result = await b.page.evaluate(async () => {
      const rows = Array.from({ length: 300_000 }, (_, id) => ({ id, body: `row ${id}` }))
      const roomy = await kalamdb.connect('roomy')
      await roomy.exec('CREATE TABLE many (id INT PRIMARY KEY, body TEXT)')
      await roomy.insert('many', rows)
      const back = await roomy.query('SELECT id, body FROM many ORDER BY id')
      const wrong = back.findIndex((row, at) => row.id !== at || row.body !== `row ${at}`)
      await roomy.close()
      return { length: back.length, wrong }
    })
    assert.deepEqual(result, { length: 300_000, wrong: -1 })
  })

  test('Arrow out, Arrow in', async () => {
    const result = await b.page.evaluate(async () => {
      const bytes = await db.arrow('SELECT id, tag FROM a ORDER BY id')
      await db.exec('CREATE TABLE copy (id INT PRIMARY KEY, tag TEXT)')
      const { rowsAffected } = await db.insert('copy', bytes)
      const rows = await db.query('SELECT * FROM copy ORDER BY id')
      await db.exec('DROP TABLE copy')
      return { arrow: bytes instanceof Uint8Array, rowsAffected, rows }
    })
    assert.deepEqual(result, {
      arrow: true,
      rowsAffected: 4,
      rows: [
        { id: 1, tag: 'x' },
        { id: 2, tag: 'y' },
        { id: 3, tag: 'x' },
        { id: 4, tag: null },
      ],
    })
  })
})

describe('a query beyond the memory limit', () => {
  // A million distinct texts, of which nothing may be dropped before the end.
  const digits = '(VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9))'
  const million = `SELECT 'a text that takes some room ' || a.x || b.x || c.x || d.x || e.x || f.x AS t
    FROM ${digits} a(x), ${digits} b(x), ${digits} c(x), ${digits} d(x), ${digits} e(x), ${digits} f(x)`

  for (const [what, sql] of Object.entries({
    'GROUP BY': `SELECT count(*) FROM (SELECT t, count(*) AS n FROM (${million}) GROUP BY t)`,
    'ORDER BY': `SELECT * FROM (${million}) ORDER BY t DESC`,
    'hash join': `SELECT count(*) FROM (${million}) l JOIN (${million}) r ON l.t = r.t`,
  })) {
    test(`${what}: OUT_OF_MEMORY, and the next query works`, async () => {
      const outcome = await b.page.evaluate(sql => attempt(() => db.query(sql)), sql)
      const error = failsWith(outcome, 'OUT_OF_MEMORY')
      assert.equal(error.sqlstate, '53200')
      assert.deepEqual(await query('SELECT count(*) AS n FROM a'), [{ n: 4n }])
    })
  }

  test('nothing is held afterwards', async () => {
    const status = await b.page.evaluate(() => db.status())
    assert.equal(status.memory.query, 0)
  })
})

describe('time and patience', { timeout: 60_000 }, () => {
  const endless = `WITH d(x) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9))
    SELECT sum(a.x * b.x + c.x - d.x * e.x + f.x * g.x - h.x)
    FROM d a, d b, d c, d d, d e, d f, d g, d h, d i, d j WHERE i.x + j.x >= 0`

  test('an abort cancels a running query; its reason is the cause', async () => {
    const outcome = await b.page.evaluate(
      sql =>
        attempt(async () => {
          const controller = new AbortController()
          setTimeout(() => controller.abort(), 100)
          return db.query(sql, [], { signal: controller.signal })
        }),
      endless,
    )
    failsWith(outcome, 'CANCELLED')
    assert.deepEqual(await query('SELECT 1 AS one'), [{ one: 1n }])
  })

  // No statement of it waits for anything: a commit is done at once.
  test('an abort is heard between the statements of a text', async () => {
    const [outcome, rows] = await b.page.evaluate(async () => {
      await db.exec('CREATE TABLE many_statements (k INT)')
      const controller = new AbortController()
      const text = 'INSERT INTO many_statements VALUES (1);'.repeat(40_000)
      const outcome = attempt(() => db.exec(text, [], { signal: controller.signal }))
      setTimeout(() => controller.abort(), 100)
      return [await outcome, await db.query('SELECT count(*) AS n FROM many_statements')]
    })
    failsWith(outcome, 'CANCELLED')
    assert.ok(rows[0].n < 40_000n, `${rows[0].n} of 40000`)
    await b.page.evaluate(() => db.exec('DROP TABLE many_statements'))
  })

  test('a query ends at its time limit', async () => {
    const outcome = await b.page.evaluate(sql => attempt(() => db.query(sql, [], { timeoutMs: 100 })), endless)
    const error = failsWith(outcome, 'TIMEOUT')
    assert.equal(error.retryable, true)
    assert.deepEqual(await query('SELECT 1 AS one'), [{ one: 1n }])
  })

  test('a short query is answered while a long one runs', async () => {
    const order = await b.page.evaluate(async sql => {
      const order = []
      const controller = new AbortController()
      // The time limit only ends the test should the engine be deaf.
      const options = { signal: controller.signal, timeoutMs: 10_000 }
      const long = attempt(() => db.query(sql, [], options)).then(() => order.push('long'))
      await attempt(() => db.query('SELECT count(*) FROM a')).then(({ error }) => order.push(error?.code ?? 'short'))
      controller.abort()
      await long
      return order
    }, endless)
    assert.deepEqual(order, ['short', 'long'])
  })
})
