// The journal in front of IndexedDB, as an app sees it: nothing, but that its rows are there. Each test leaves rows that
// only the journal has, and shows that it was so where that is the point.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { browser, failsWith } from './lib/harness.mjs'
import { journalFiles, patchedWorker, whereIs } from './lib/journal.mjs'

/** Nothing of these workers is ever carried over in a pause: their timers of half a second never ring. */
const patient = patchedWorker('patient', () => {
  const { setTimeout } = globalThis
  globalThis.setTimeout = (work, ms, ...more) => setTimeout(work, ms === 500 ? 1e9 : ms, ...more)
})

const b = browser({ extra: patient })

/** Makes a database with `kept` rows that IndexedDB has, and leaves rows that only the journal has; then its worker dies. */
async function leave(name, { page = b.page, rows = 3 } = {}) {
  await page.evaluate(
    async ({ name, rows }) => {
      let worker
      const spawn = () => {
        worker = new Worker('/patient.js', { type: 'module' })
        return worker
      }
      const db = await connectWhenFree({ name, worker: spawn })
      await db.exec('CREATE TABLE t (id INT PRIMARY KEY, body TEXT)')
      await db.exec("INSERT INTO t VALUES (0, 'carried')", [], { durability: 'strict' })
      for (let id = 1; id <= rows; id++) await db.exec('INSERT INTO t VALUES ($1, $2)', [id, `waiting in ${name}`])
      worker.terminate()
    },
    { name, rows },
  )
  assert.deepEqual(await whereIs(page, `waiting in ${name}`), { journal: rows > 0, indexedDb: false })
}

const ids = async ({ name, worker }) => {
  const db = await connectWhenFree({ name, ...(worker !== undefined && { worker }) })
  const rows = await db.query('SELECT id FROM t ORDER BY id')
  await db.close()
  return rows.map(row => row.id)
}

/** The page's directory of journals. */
const inDirectory = async (page, work, args) =>
  page.evaluate(
    async ({ work, args }) => {
      const directory = await (await navigator.storage.getDirectory()).getDirectoryHandle('kalamdb')
      const module = URL.createObjectURL(new Blob([`export default ${work}`], { type: 'text/javascript' }))
      return (await import(module)).default(directory, args)
    },
    { work: String(work), args },
  )

describe('what only the journal has', () => {
  test('is read by an engine in a page, which writes to IndexedDB, and by the next worker', async () => {
    await leave('page')
    assert.deepEqual(await b.page.evaluate(ids, { name: 'page', worker: false }), [0, 1, 2, 3])
    const rows = await b.page.evaluate(async () => {
      const db = await kalamdb.connect({ name: 'page', worker: false })
      const first = await db.query('SELECT id FROM t ORDER BY id')
      const { durability } = await db.exec("INSERT INTO t VALUES (4, 'of the page')")
      await db.exec("UPDATE t SET body = 'changed by the page' WHERE id = 1")
      await db.exec('DELETE FROM t WHERE id = 2')
      const second = await db.query('SELECT id, body FROM t ORDER BY id')
      await db.close()
      return { first, second, durability }
    })
    assert.deepEqual(
      rows.first.map(row => row.id),
      [0, 1, 2, 3],
    )
    assert.equal(rows.durability, 'relaxed')
    const expected = [
      { id: 0, body: 'carried' },
      { id: 1, body: 'changed by the page' },
      { id: 3, body: 'waiting in page' },
      { id: 4, body: 'of the page' },
    ]
    assert.deepEqual(rows.second, expected)
    // The journal still holds the commits that the page took up: they are not taken up again.
    assert.equal((await whereIs(b.page, 'waiting in page')).journal, true)
    for (let round = 0; round < 2; round++) {
      const again = await b.page.evaluate(async () => {
        const db = await kalamdb.connect('page')
        const rows = await db.query('SELECT id, body FROM t ORDER BY id')
        await db.close()
        return rows
      })
      assert.deepEqual(again, expected)
    }
  })

  test('survives that it is taken up and left again, many times', async () => {
    await leave('often')
    for (let round = 0; round < 8; round++) {
      await b.page.evaluate(async round => {
        let worker
        const spawn = () => {
          worker = new Worker('/patient.js', { type: 'module' })
          return worker
        }
        const db = await connectWhenFree({ name: 'often', worker: spawn })
        await db.exec('INSERT INTO t VALUES ($1, $2)', [100 + round, `first of round ${round}`])
        await db.exec('UPDATE t SET body = $1 WHERE id = 3', [`second of round ${round}`])
        worker.terminate()
      }, round)
    }
    assert.deepEqual(await whereIs(b.page, 'second of round 7'), { journal: true, indexedDb: false })
    const found = await b.page.evaluate(ids, { name: 'often' })
    assert.deepEqual(found, [0, 1, 2, 3, 100, 101, 102, 103, 104, 105, 106, 107])
  })

  test('is carried over in a pause, and not before', async () => {
    await b.page.evaluate(async () => {
      window.db = await kalamdb.connect('pause')
      await db.exec('CREATE TABLE t (id INT PRIMARY KEY, body TEXT)')
      await db.exec("INSERT INTO t VALUES (1, 'after a pause')")
    })
    // A look at IndexedDB from outside, until it is there: the engine does it by itself.
    for (;;) {
      const { indexedDb } = await whereIs(b.page, 'after a pause')
      if (indexedDb) break
    }
    await b.page.evaluate(() => window.db.close())
  })

  test('is carried over by close', async () => {
    await b.page.evaluate(async () => {
      const db = await kalamdb.connect({ name: 'closed', worker: () => new Worker('/patient.js', { type: 'module' }) })
      await db.exec('CREATE TABLE t (id INT PRIMARY KEY, body TEXT)')
      await db.exec("INSERT INTO t VALUES (1, 'at close')")
      await db.close()
    })
    assert.equal((await whereIs(b.page, 'at close')).indexedDb, true)
    // So the file is not needed: but it is named, and that it is gone is said.
    assert.deepEqual(await b.page.evaluate(ids, { name: 'closed' }), [1])
  })

  test('is there before a strict commit is acknowledged', async () => {
    const receipts = await b.page.evaluate(async () => {
      const spawn = () => new Worker('/patient.js', { type: 'module' })
      window.db = await kalamdb.connect({ name: 'strict', worker: spawn })
      await db.exec('CREATE TABLE t (id INT PRIMARY KEY, body TEXT)')
      const receipts = []
      for (let id = 0; id < 200; id++) {
        receipts.push((await db.exec('INSERT INTO t VALUES ($1, $2)', [id, `relaxed ${id}.`])).durability)
      }
      receipts.push((await db.exec("INSERT INTO t VALUES (200, 'strict')", [], { durability: 'strict' })).durability)
      return receipts
    })
    assert.deepEqual(receipts, [...Array(200).fill('relaxed'), 'strict'])
    assert.equal((await whereIs(b.page, 'relaxed 199.')).indexedDb, true)
    await b.restart({ kill: true })
    assert.deepEqual(
      await b.page.evaluate(ids, { name: 'strict' }),
      Array.from({ length: 201 }, (_, id) => id),
    )
  })

  test('is in a backup, in an export, and in what is restored', async () => {
    await leave('source')
    const found = await b.page.evaluate(async () => {
      const spawn = () => new Worker('/patient.js', { type: 'module' })
      const db = await connectWhenFree({ name: 'source', worker: spawn })
      await db.exec("INSERT INTO t VALUES (4, 'waits too')")
      const bytes = await db.backup()
      await db.exec("INSERT INTO t VALUES (5, 'after the backup')")
      const csv = new TextDecoder().decode(await db.export('t', { format: 'csv' }))
      const check = await db.query('STORAGE CHECK')
      const { records } = await db.status()
      const restored = await kalamdb.connect({ name: 'copy', restore: bytes })
      const copied = await restored.query('SELECT id FROM t ORDER BY id')
      await restored.exec("INSERT INTO t VALUES (6, 'of the copy')")
      await restored.close()
      const again = await kalamdb.connect('copy')
      const later = await again.query('SELECT id FROM t ORDER BY id')
      const checked = await again.query('STORAGE CHECK')
      await again.close()
      await db.close()
      return { csv, check, records, copied, later, checked }
    })
    assert.match(found.csv, /4,waits too\n5,after the backup/)
    assert.ok(
      [...found.check, ...found.checked].every(row => row.status === 'ok'),
      JSON.stringify(found.check),
    )
    assert.deepEqual(
      found.copied.map(row => row.id),
      [0, 1, 2, 3, 4],
    )
    assert.deepEqual(
      found.later.map(row => row.id),
      [0, 1, 2, 3, 4, 6],
    )
  })

  test('is in what rescue reads', async () => {
    await leave('rescued')
    const { rows, report } = await b.page.evaluate(async () => {
      const { bytes, report } = await kalamdb.rescue('rescued')
      const db = await kalamdb.connect({ name: 'of-the-rescue', storage: 'memory', restore: bytes })
      const rows = await db.query('SELECT id FROM t ORDER BY id')
      await db.close()
      return { rows, report }
    })
    assert.ok(
      report.every(row => row.status === 'ok'),
      JSON.stringify(report),
    )
    assert.deepEqual(
      rows.map(row => row.id),
      [0, 1, 2, 3],
    )
    assert.deepEqual(await b.page.evaluate(ids, { name: 'rescued' }), [0, 1, 2, 3])
  })
})

describe('a database that is deleted', () => {
  test('takes its journal along, from a worker and from a page', async () => {
    for (const worker of [true, false]) {
      const name = `deleted-${worker}`
      await leave(name)
      assert.ok((await journalFiles(b.page))[`${name}.journal`] > 0)
      await b.page.evaluate(
        async ({ name, worker }) => {
          const db = await connectWhenFree(name)
          await db.close()
          await kalamdb.deleteDatabase(name, { worker })
        },
        { name, worker },
      )
      assert.equal((await journalFiles(b.page))[`${name}.journal`], undefined)
      const table = await b.page.evaluate(
        name =>
          attempt(async () => {
            const db = await kalamdb.connect(name)
            return db.query('SELECT * FROM t').finally(() => db.close())
          }),
        name,
      )
      failsWith(table, 'TABLE_NOT_FOUND')
    }
  })

  test('by other means than the engine does not come back out of its journal', async () => {
    await leave('other-means')
    await b.page.evaluate(async () => {
      const gone = new Promise((done, failed) => {
        const request = indexedDB.deleteDatabase('kalamdb:other-means')
        request.onsuccess = done
        request.onerror = failed
      })
      await gone
    })
    assert.ok((await journalFiles(b.page))['other-means.journal'] > 0, 'the file stays')
    const found = await b.page.evaluate(async () => {
      const db = await kalamdb.connect('other-means')
      const table = await attempt(() => db.query('SELECT * FROM t'))
      await db.exec('CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (9)')
      await db.exec('INSERT INTO t VALUES (10)')
      await db.close()
      return table
    })
    failsWith(found, 'TABLE_NOT_FOUND')
    for (const worker of [true, false]) {
      assert.deepEqual(await b.page.evaluate(ids, { name: 'other-means', worker }), [9, 10])
    }
  })

  test('while it is open is not written to, nor are rows acknowledged that nobody will find', async () => {
    const outcome = await b.page.evaluate(async () => {
      window.db = await kalamdb.connect('under-way')
      await db.exec('CREATE TABLE t (id INT PRIMARY KEY)')
      for (let id = 0; id < 5; id++) await db.exec('INSERT INTO t VALUES ($1)', [id])
      await new Promise((done, failed) => {
        const request = indexedDB.deleteDatabase('kalamdb:under-way')
        request.onsuccess = done
        request.onerror = failed
      })
      const outcomes = []
      for (let id = 5; id < 10; id++) outcomes.push(await attempt(() => db.exec('INSERT INTO t VALUES ($1)', [id])))
      await attempt(() => db.close())
      return outcomes
    })
    for (const one of outcome)
      failsWith(one, ['STORAGE_CLOSED', 'DATABASE_NOT_FOUND', 'STORAGE_ERROR', 'DATA_CORRUPTED'])
  })
})

describe('a journal that is', () => {
  const gone = /journal .* its file is gone/
  const damage = {
    removed: [
      gone,
      async (directory, file) => {
        await directory.removeEntry(file)
      },
    ],
    'cut to nothing': [
      gone,
      async (directory, file) => {
        const writable = await (await directory.getFileHandle(file)).createWritable()
        await writable.close()
      },
    ],
    'overwritten with noise': [
      /journal .* its header is damaged/,
      async (directory, file) => {
        const handle = await directory.getFileHandle(file)
        const noise = crypto.getRandomValues(new Uint8Array(1 << 16))
        const writable = await handle.createWritable()
        await writable.write(noise)
        await writable.close()
      },
    ],
    'that of another database': [
      /journal .* that of another database/,
      async (directory, file) => {
        const other = await (await directory.getFileHandle('other.journal')).getFile()
        const writable = await (await directory.getFileHandle(file)).createWritable()
        await writable.write(await other.arrayBuffer())
        await writable.close()
      },
    ],
  }
  for (const [what, [said, work]] of Object.entries(damage)) {
    test(`${what}: rescue reads the rest and says so, and so does the next connection, once`, async () => {
      const name = `damaged-${Object.keys(damage).indexOf(what)}`
      await b.page.evaluate(async () => {
        const db = await connectWhenFree('other')
        await db.exec('CREATE TABLE IF NOT EXISTS o (id INT PRIMARY KEY)')
        await db.close()
      })
      await leave(name)
      await inDirectory(b.page, work, `${name}.journal`)
      const worker = Object.keys(damage).indexOf(what) % 2 === 0
      const { rows, report } = await b.page.evaluate(
        async ({ name, worker }) => {
          const { bytes, report } = await kalamdb.rescue({ name, worker })
          const db = await kalamdb.connect({ name: `${name}-new`, restore: bytes })
          await db.exec("INSERT INTO t VALUES (7, 'goes on')")
          const rows = await db.query('SELECT id, body FROM t ORDER BY id')
          await db.close()
          return { rows, report }
        },
        { name, worker },
      )
      assert.deepEqual(rows, [
        { id: 0, body: 'carried' },
        { id: 7, body: 'goes on' },
      ])
      const [{ object, status, detail }, ...others] = report
      assert.deepEqual([object, status], ['journal', 'damaged'])
      assert.match(detail, said)
      assert.ok(
        others.every(row => row.status === 'ok'),
        JSON.stringify(others),
      )
      // It was read only: whoever connects is told, once, and then the database goes on with what it has.
      const told = await b.page.evaluate(options => attempt(() => connectWhenFree(options)), { name, worker: !worker })
      const error = failsWith(told, 'DATA_CORRUPTED', { message: said })
      assert.match(error.hint, /goes on without/)
      assert.deepEqual(await b.page.evaluate(ids, { name, worker: !worker }), [0])
      await b.page.evaluate(async name => {
        let engine
        const spawn = () => {
          engine = new Worker('/patient.js', { type: 'module' })
          return engine
        }
        const db = await kalamdb.connect({ name, worker: spawn })
        for (let id = 1; id < 9; id++) await db.exec('INSERT INTO t VALUES ($1)', [id])
        engine.terminate()
      }, name)
      assert.deepEqual(await b.page.evaluate(ids, { name, worker }), [0, 1, 2, 3, 4, 5, 6, 7, 8])
    })
  }

  test('torn at its end has everything before', async () => {
    await leave('torn')
    // The last frame loses a byte, as a loss of power may leave it.
    await inDirectory(
      b.page,
      async (directory, file) => {
        const handle = await directory.getFileHandle(file)
        const bytes = new Uint8Array(await (await handle.getFile()).arrayBuffer())
        const text = new TextEncoder().encode('waiting in torn')
        const at = bytes.findLastIndex((_, i) => text.every((byte, j) => bytes[i + j] === byte))
        bytes[at] ^= 1
        const writable = await handle.createWritable()
        await writable.write(bytes)
        await writable.close()
      },
      'torn.journal',
    )
    assert.deepEqual(await b.page.evaluate(ids, { name: 'torn' }), [0, 1, 2])
  })
})

describe('several', () => {
  test('databases at once, each in its worker, keep their own', async () => {
    const names = ['one', 'One', 'two', 'two.journal']
    await b.page.evaluate(async names => {
      const dbs = await Promise.all(names.map(name => kalamdb.connect(name)))
      await Promise.all(dbs.map(db => db.exec('CREATE TABLE t (id INT PRIMARY KEY)')))
      for (let id = 0; id < 50; id++) {
        await Promise.all(dbs.map((db, n) => db.exec('INSERT INTO t VALUES ($1)', [id * 10 + n])))
      }
    }, names)
    await b.restart({ kill: true })
    for (const [n, name] of names.entries()) {
      const found = await b.page.evaluate(ids, { name, worker: n % 2 === 0 })
      assert.deepEqual(
        found,
        Array.from({ length: 50 }, (_, id) => id * 10 + n),
      )
    }
  })

  test('tabs, one after the other: the second waits while the first closes, or goes', async () => {
    for (const how of ['close', 'tab', 'terminate']) {
      const first = await b.newPage()
      await first.evaluate(async () => {
        const spawn = () => {
          window.worker = new Worker('/patient.js', { type: 'module' })
          return window.worker
        }
        window.db = await connectWhenFree({ name: 'handed-over', worker: spawn })
        await db.exec('CREATE TABLE IF NOT EXISTS t (id INT PRIMARY KEY)')
        const [{ n }] = await db.query('SELECT count(*) AS n FROM t')
        for (let id = 0; id < 20; id++) await db.exec('INSERT INTO t VALUES ($1)', [Number(n) + id])
      })
      const before = (await b.page.evaluate(() => window.rows)) ?? 0
      // Not connectWhenFree: connect waits for a lock that is just given free.
      const second = b.page.evaluate(async () => {
        const db = await kalamdb.connect('handed-over')
        const rows = await db.query('SELECT id FROM t ORDER BY id')
        await db.close()
        window.rows = rows.length
        return rows.map(row => row.id)
      })
      if (how === 'close') await first.evaluate(() => window.db.close())
      if (how === 'terminate') await first.evaluate(() => window.worker.terminate())
      if (how !== 'tab') assert.deepEqual((await second).length, before + 20, how)
      await first.close()
      assert.deepEqual(
        await second,
        Array.from({ length: before + 20 }, (_, id) => id),
        how,
      )
    }
  })
})

test('names of all kinds have journals of their own, or none', async () => {
  const names = [
    'a/b',
    'a\\b',
    '..',
    '.',
    ' ',
    'two words',
    'CON',
    '%2e',
    'a_2fb',
    '🗒️ notes',
    'x'.repeat(300),
    'é'.repeat(100),
  ]
  await b.page.evaluate(async names => {
    for (const [n, name] of names.entries()) {
      const spawn = () => {
        window.worker = new Worker('/patient.js', { type: 'module' })
        return window.worker
      }
      const db = await kalamdb.connect({ name, worker: spawn })
      await db.exec('CREATE TABLE t (id INT PRIMARY KEY)')
      await db.exec('INSERT INTO t VALUES ($1)', [n])
      window.worker.terminate()
    }
  }, names)
  const files = await journalFiles(b.page)
  for (const file of Object.keys(files)) assert.match(file, /^[-a-zA-Z0-9_]+\.journal$/)
  for (const [n, name] of names.entries()) {
    assert.deepEqual(await b.page.evaluate(ids, { name, worker: n % 2 === 0 }), [n], name)
    await b.page.evaluate(name => kalamdb.deleteDatabase(name), name)
  }
  const left = Object.keys(await journalFiles(b.page)).length
  assert.equal(left, Object.keys(files).length - (names.length - 2), 'two names are too long for a file')
})

test('a context of its own, as a private window has, keeps its rows as long as it lives', async () => {
  const context = await b.chromium.browser.newContext()
  try {
    const page = await context.newPage()
    await page.goto(b.url)
    await page.waitForFunction(() => window.ready)
    await leave('private', { page })
    assert.deepEqual(await page.evaluate(ids, { name: 'private' }), [0, 1, 2, 3])
    assert.deepEqual(Object.keys(await journalFiles(page)), ['private.journal'])
  } finally {
    await context.close()
  }
})

test('status tells the truth beside a journal', async () => {
  const found = await b.page.evaluate(async () => {
    const spawn = () => new Worker('/patient.js', { type: 'module' })
    const db = await kalamdb.connect({ name: 'told', worker: spawn })
    await db.exec('CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (0)')
    const before = await db.status()
    for (let id = 1; id <= 10; id++) await db.exec('INSERT INTO t VALUES ($1)', [id])
    const after = await db.status()
    await db.close()
    return { before, after }
  })
  const { before, after } = found
  assert.equal(after.storage, 'indexeddb')
  assert.equal(after.records, before.records + 10)
  assert.equal(after.log.commits, before.log.commits + 10)
  assert.ok(after.usage > 0 && after.quota > after.usage)
})
