// A browser without the origin private file system, or one whose files fail: IndexedDB takes what the journal cannot, and
// nothing that was acknowledged is lost.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { browser, failsWith } from './lib/harness.mjs'
import { journalFiles, patchedWorker, whereIs } from './lib/journal.mjs'

// How the engine's worker is changed before the engine is there. These run in the worker.
const workers = {
  // What waits stays in the journal: the timers of half a second never ring.
  patient: () => {
    const { setTimeout } = globalThis
    globalThis.setTimeout = (work, ms, ...more) => setTimeout(work, ms === 500 ? 1e9 : ms, ...more)
  },
  'no-directory': () => {
    delete StorageManager.prototype.getDirectory
  },
  'no-storage': () => {
    delete WorkerNavigator.prototype.storage
  },
  'directory-refused': () => {
    StorageManager.prototype.getDirectory = () => Promise.reject(new DOMException('not here', 'SecurityError'))
  },
  'directory-throws': () => {
    StorageManager.prototype.getDirectory = () => {
      throw new DOMException('not here', 'SecurityError')
    }
  },
  'no-handles': () => {
    delete globalThis.FileSystemSyncAccessHandle
  },
  'no-method': () => {
    delete FileSystemFileHandle.prototype.createSyncAccessHandle
  },
  'handle-refused': () => {
    FileSystemFileHandle.prototype.createSyncAccessHandle = () =>
      Promise.reject(new DOMException('not now', 'InvalidStateError'))
  },
  'no-room': () => {
    FileSystemSyncAccessHandle.prototype.truncate = () => {
      throw new DOMException('full', 'QuotaExceededError')
    }
  },
  'no-writes': () => {
    FileSystemSyncAccessHandle.prototype.write = () => {
      throw new DOMException('full', 'QuotaExceededError')
    }
  },
  'no-flush': () => {
    FileSystemSyncAccessHandle.prototype.flush = () => {
      throw new DOMException('not now', 'InvalidStateError')
    }
  },
  // As the first browsers with such handles had them.
  'late-methods': () => {
    for (const name of ['getSize', 'truncate', 'flush', 'close']) {
      const method = FileSystemSyncAccessHandle.prototype[name]
      FileSystemSyncAccessHandle.prototype[name] = async function (...args) {
        return method.apply(this, args)
      }
    }
  },
  'short-reads': () => {
    const { read } = FileSystemSyncAccessHandle.prototype
    FileSystemSyncAccessHandle.prototype.read = function (into, options) {
      return read.call(this, into.subarray(0, 200), options)
    }
  },
  'no-reads': () => {
    FileSystemSyncAccessHandle.prototype.read = () => {
      throw new DOMException('device', 'NotReadableError')
    }
  },
}

const extra = new Map(Object.entries(workers).flatMap(([name, patch]) => [...patchedWorker(name, patch)]))
const b = browser({ extra })

/** In the page: opens `name` with an engine in that worker, and gives the worker too. */
const opener = page =>
  page.evaluate(() => {
    window.openIn = async (name, kind) => {
      let worker
      const spawn = () => {
        worker = new Worker(`/${kind}.js`, { type: 'module' })
        return worker
      }
      const db = await connectWhenFree({ name, worker: spawn })
      return { db, worker }
    }
  })

const bodies = async ({ name, kind }) => {
  const { db } = await window.openIn(name, kind)
  const rows = await db.query('SELECT id, body FROM t ORDER BY id')
  await db.close()
  return rows.map(row => `${row.id} ${row.body}`)
}

describe('without a file that can be written', () => {
  const without = Object.keys(workers).filter(kind => !['patient', 'short-reads', 'no-reads'].includes(kind))
  for (const kind of without) {
    test(`(${kind}) rows are in IndexedDB, and outlive the worker`, async () => {
      const { page } = b
      await opener(page)
      const name = `without-${kind}`
      const durability = await page.evaluate(
        async ({ name, kind }) => {
          const { db, worker } = await window.openIn(name, kind)
          await db.exec('CREATE TABLE t (id INT PRIMARY KEY, body TEXT)')
          for (let id = 0; id < 20; id++) await db.exec('INSERT INTO t VALUES ($1, $2)', [id, `first ${name}`])
          await db.exec('DELETE FROM t WHERE id >= 2')
          const { durability } = await db.exec("UPDATE t SET body = 'second' WHERE id = 1")
          worker.terminate()
          return durability
        },
        { name, kind },
      )
      assert.equal(durability, 'relaxed')
      assert.equal((await whereIs(page, `first ${name}`)).journal, false)
      const expected = [`0 first ${name}`, '1 second']
      // With it again, with a browser that has a journal, and without.
      for (const next of [kind, 'patient', 'patient']) {
        assert.deepEqual(await page.evaluate(bodies, { name, kind: next }), expected, next)
      }
      const again = await page.evaluate(
        async ({ name }) => {
          const db = await kalamdb.connect({ name, worker: false })
          const rows = await db.query('SELECT count(*) AS n FROM t')
          await db.close()
          return rows
        },
        { name },
      )
      assert.deepEqual(again, [{ n: 2n }])
    })
  }
})

describe('a journal that cannot be read any more', () => {
  const unreadable = {
    'no-directory': ['STORAGE_ERROR'],
    'directory-refused': ['STORAGE_ERROR'],
    'no-reads': ['STORAGE_ERROR'],
    'short-reads': ['STORAGE_ERROR'],
  }
  for (const [kind, codes] of Object.entries(unreadable)) {
    test(`(${kind}) is a typed error; what is in it is there when it can be read again`, async () => {
      const { page } = b
      await opener(page)
      const name = `unreadable-${kind}`
      await page.evaluate(async name => {
        const { db, worker } = await window.openIn(name, 'patient')
        await db.exec('CREATE TABLE t (id INT PRIMARY KEY, body TEXT)')
        for (let id = 0; id < 9; id++) await db.exec('INSERT INTO t VALUES ($1, $2)', [id, `waits in ${name}`])
        worker.terminate()
      }, name)
      for (let round = 0; round < 2; round++) {
        const outcome = await page.evaluate(({ name, kind }) => attempt(() => window.openIn(name, kind)), {
          name,
          kind,
        })
        failsWith(outcome, codes, { message: /journal/ })
      }
      const rows = await page.evaluate(bodies, { name, kind: 'patient' })
      assert.deepEqual(
        rows,
        Array.from({ length: 9 }, (_, id) => `${id} waits in ${name}`),
      )
    })
  }

  test('but its file can be, is taken up by a worker that gets no handle, as by a page', async () => {
    const { page } = b
    await opener(page)
    await page.evaluate(async () => {
      const { db, worker } = await window.openIn('readable', 'patient')
      await db.exec('CREATE TABLE t (id INT PRIMARY KEY, body TEXT)')
      for (let id = 0; id < 3; id++) await db.exec('INSERT INTO t VALUES ($1, $2)', [id, 'waits'])
      worker.terminate()
    })
    for (const kind of ['no-handles', 'handle-refused', 'patient']) {
      assert.deepEqual(await page.evaluate(bodies, { name: 'readable', kind }), ['0 waits', '1 waits', '2 waits'])
    }
  })
})

// What a write of the file may do instead of being done, from some moment on. These run in the worker.
const faults = {
  'throws, and nothing is there': () => {
    FileSystemSyncAccessHandle.prototype.write = () => {
      throw new DOMException('full', 'QuotaExceededError')
    }
  },
  'writes half and says so': () => {
    const { write } = FileSystemSyncAccessHandle.prototype
    FileSystemSyncAccessHandle.prototype.write = function (bytes, options) {
      return write.call(this, bytes.subarray(0, bytes.length >> 1), options)
    }
  },
  'writes half and throws': () => {
    const { write } = FileSystemSyncAccessHandle.prototype
    FileSystemSyncAccessHandle.prototype.write = function (bytes, options) {
      write.call(this, bytes.subarray(0, bytes.length >> 1), options)
      throw new DOMException('full', 'QuotaExceededError')
    }
  },
  'writes all and throws, once': () => {
    const { write } = FileSystemSyncAccessHandle.prototype
    FileSystemSyncAccessHandle.prototype.write = function (bytes, options) {
      write.call(this, bytes, options)
      FileSystemSyncAccessHandle.prototype.write = write
      throw new DOMException('device', 'InvalidStateError')
    }
  },
  'writes nothing and says so': () => {
    FileSystemSyncAccessHandle.prototype.write = () => 0
  },
  'throws as the handle is closed': () => {
    const { write } = FileSystemSyncAccessHandle.prototype
    FileSystemSyncAccessHandle.prototype.write = function (bytes, options) {
      this.close()
      return write.call(this, bytes, options)
    }
  },
}

describe('a write of the journal that', () => {
  const work = async ({ name, kind }) => {
    const { db } = await window.openIn(name, kind)
    await db.exec('CREATE TABLE t (id INT PRIMARY KEY, body TEXT)')
    for (let id = 0; id < 5; id++) await db.exec('INSERT INTO t VALUES ($1, $2)', [id, 'before'])
    Object.assign(window, { db })
  }
  for (const [what, fault] of Object.entries(faults)) {
    test(`${what}: the row is acknowledged, and there after a kill`, async () => {
      await opener(b.page)
      const name = `fault-${Object.keys(faults).indexOf(what)}`
      await b.page.evaluate(work, { name, kind: 'patient' })
      await b.page.workers().at(-1).evaluate(fault)
      const durability = await b.page.evaluate(async () => {
        const { durability } = await db.exec("INSERT INTO t VALUES (5, 'at the fault')")
        for (let id = 6; id < 12; id++) await db.exec('INSERT INTO t VALUES ($1, $2)', [id, 'after'])
        await db.exec("UPDATE t SET body = 'changed' WHERE id = 0")
        await db.exec('DELETE FROM t WHERE id = 1')
        return durability
      })
      assert.equal(durability, 'relaxed')
      await b.restart({ kill: true })
      await opener(b.page)
      const expected = [
        '0 changed',
        ...[2, 3, 4].map(id => `${id} before`),
        '5 at the fault',
        ...[6, 7, 8, 9, 10, 11].map(id => `${id} after`),
      ]
      for (let round = 0; round < 2; round++) {
        assert.deepEqual(await b.page.evaluate(bodies, { name, kind: 'patient' }), expected)
      }
      const files = await journalFiles(b.page)
      assert.ok(files[`${name}.journal`] > 0)
    })

    test(`${what}, while IndexedDB fails too: a typed error, and nothing of the row, now and after a kill`, async () => {
      await opener(b.page)
      const name = `both-${Object.keys(faults).indexOf(what)}`
      await b.page.evaluate(work, { name, kind: 'patient' })
      const worker = b.page.workers().at(-1)
      await worker.evaluate(fault)
      await worker.evaluate(() => {
        const { put } = IDBObjectStore.prototype
        self.heal = () => {
          IDBObjectStore.prototype.put = put
        }
        IDBObjectStore.prototype.put = () => {
          throw new DOMException('full', 'QuotaExceededError')
        }
      })
      const failed = await b.page.evaluate(() => attempt(() => db.exec("INSERT INTO t VALUES (5, 'refused')")))
      failsWith(failed, ['QUOTA_EXCEEDED', 'STORAGE_ERROR'])
      const seen = await b.page.evaluate(() => db.query('SELECT id FROM t ORDER BY id'))
      assert.deepEqual(
        seen.map(row => row.id),
        [0, 1, 2, 3, 4],
      )
      const rounds = Object.keys(faults).indexOf(what)
      // Half of the time it goes on after that, half of the time it is killed at once.
      if (rounds % 2 === 0) {
        await worker.evaluate(() => self.heal())
        await b.page.evaluate(() => db.exec("INSERT INTO t VALUES (6, 'healed')"))
      }
      await b.restart({ kill: true })
      await opener(b.page)
      const expected = [0, 1, 2, 3, 4].map(id => `${id} before`)
      if (rounds % 2 === 0) expected.push('6 healed')
      assert.deepEqual(await b.page.evaluate(bodies, { name, kind: 'patient' }), expected)
    })
  }
})

test('everything of the origin cleared away under an open database: it says so, close ends, and the name is free', async () => {
  const { page } = b
  await page.evaluate(async () => {
    window.db = await connectWhenFree('cleared')
    await db.exec('CREATE TABLE t (id INT PRIMARY KEY)')
    for (let id = 0; id < 5; id++) await db.exec('INSERT INTO t VALUES ($1)', [id])
  })
  const session = await page.context().newCDPSession(page)
  // As a user does, or a response with `Clear-Site-Data: "storage"`.
  await session.send('Storage.clearDataForOrigin', { origin: b.url.slice(0, -1), storageTypes: 'all' })
  const outcomes = await page.evaluate(async () => {
    const insert = await attempt(() => db.exec('INSERT INTO t VALUES (9)'))
    const select = await attempt(() => db.query('SELECT * FROM t'))
    // Chromium 156 never returns from closing a handle of a file that is gone.
    const close = await attempt(() => db.close())
    const again = await kalamdb.connect('cleared')
    const table = await attempt(() => again.query('SELECT * FROM t'))
    await again.exec('CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1)')
    await again.exec('INSERT INTO t VALUES (2)')
    await again.close()
    return { insert, select, close, table }
  })
  for (const one of ['insert', 'select', 'close']) failsWith(outcomes[one], 'STORAGE_CLOSED')
  failsWith(outcomes.table, 'TABLE_NOT_FOUND')
  await page.reload()
  await page.waitForFunction(() => window.ready)
  const rows = await page.evaluate(async () => {
    const db = await connectWhenFree('cleared')
    const rows = await db.query('SELECT id FROM t ORDER BY id')
    await db.close()
    return rows
  })
  assert.deepEqual(rows, [{ id: 1 }, { id: 2 }])
})

test('IndexedDB that is full: the journal takes rows until it has to be carried over, then they fail; none is lost', async () => {
  await b.restart()
  const { page } = b
  await opener(page)
  await page.evaluate(async () => {
    window.db = await connectWhenFree('full')
    await db.exec('CREATE TABLE t (id INT PRIMARY KEY, body TEXT)')
    await db.exec("INSERT INTO t VALUES (-1, 'first')")
  })
  const worker = page.workers().at(-1)
  await worker.evaluate(() => {
    IDBObjectStore.prototype.put = () => {
      throw new DOMException('full', 'QuotaExceededError')
    }
  })
  const { kept, error, found, status } = await page.evaluate(async () => {
    const kept = [-1]
    let error
    for (let id = 0; id < 500 && error === undefined; id++) {
      // Random: rows are stored compressed.
      const body = Array.from(crypto.getRandomValues(new Uint8Array(10_000)), byte => byte.toString(16)).join('')
      const outcome = await attempt(() => db.exec('INSERT INTO t VALUES ($1, $2)', [id, body]))
      error = outcome.error
      if (error === undefined) kept.push(id)
    }
    const found = await db.query('SELECT id FROM t ORDER BY id')
    const status = await attempt(() => db.status())
    return { kept, error, found, status }
  })
  failsWith({ error }, 'QUOTA_EXCEEDED')
  assert.ok(kept.length > 2, 'the journal took some')
  assert.deepEqual(
    found.map(row => row.id),
    kept,
  )
  assert.ok(status.value, 'status is told all the same')
  await b.restart({ kill: true })
  await opener(b.page)
  const ids = async () =>
    (await b.page.evaluate(bodies, { name: 'full', kind: 'patient' })).map(row => parseInt(row, 10))
  assert.deepEqual(await ids(), kept)
  assert.deepEqual(await ids(), kept)
})
