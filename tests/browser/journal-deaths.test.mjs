// What was acknowledged is there after any death, whether it lay in the journal or in IndexedDB, and whether it is opened
// next in a worker, which writes to the journal, or in a page, which can only read it.
//
// A fixed sequence of steps changes two tables; most steps are one row, which is what the journal takes. Each round
// does steps until it is ended at a random moment by one of the ways below. Then the tables are what the sequence says,
// or one step further: the step on its way may have become durable without its answer being heard.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { browser } from './lib/harness.mjs'
import { whereIs, workerUrl } from './lib/journal.mjs'

const b = browser()
const rounds = Number(process.env.KALAM_JOURNAL_ROUNDS ?? 20)

/** What step `k` changes, as pairs of a table and a row, `undefined` for none any more; runs here and, as text, in the page. */
function stepOf(k) {
  const row = (n, id = k) => ({ id, n, body: `mark ${k}.` })
  switch (k % 8) {
    case 0:
      return { changes: [['a', k, row(0)]], sql: 'INSERT INTO a VALUES ($1, $2, $3)' }
    case 1:
      return { changes: [['a', k - 1, row(k, k - 1)]], sql: 'UPDATE a SET n = $2, body = $3 WHERE id = $1' }
    case 2:
      return { changes: [['a', k - 2]], sql: 'DELETE FROM a WHERE id = $1' }
    case 3:
      return { changes: [['a', k - 3, row(-k, k - 3)]], sql: 'INSERT INTO a VALUES ($1, $2, $3)' }
    case 4:
      // A transaction: both or none.
      return {
        changes: [
          ['a', k, row(4)],
          ['b', k, row(4)],
        ],
        sql: 'INSERT INTO $t VALUES ($1, $2, $3)',
      }
    case 5:
      return {
        changes: [
          ['a', k - 1],
          ['b', k - 1],
        ],
        sql: 'DELETE FROM $t WHERE id = $1',
      }
    case 6:
      return { changes: [['b', k % 5, row(6, k % 5)]], sql: 'INSERT OR REPLACE INTO b VALUES ($1, $2, $3)' }
    default:
      // Every other one goes past the journal.
      return {
        changes: [['b', k, row(7)]],
        sql: 'INSERT INTO b VALUES ($1, $2, $3)',
        durability: k % 16 === 7 ? 'strict' : 'relaxed',
      }
  }
}

/** The tables after the steps before `end`. */
function model(end) {
  const tables = { a: new Map(), b: new Map() }
  for (let k = 0; k < end; k++) {
    for (const [table, id, row] of stepOf(k).changes) {
      if (row === undefined) tables[table].delete(id)
      else tables[table].set(id, row)
    }
  }
  const rows = table => [...table.values()].sort((x, y) => x.id - y.id).map(({ id, n, body }) => `${id}:${n}:${body}`)
  return { a: rows(tables.a), b: rows(tables.b) }
}

// Both run in the page.
const look = async ({ worker, script }) => {
  const inWorker = () => {
    window.worker = new Worker(script, { type: 'module' })
    return window.worker
  }
  window.db = await connectWhenFree({ name: 'deaths', worker: worker ? inWorker : false })
  await db.exec(`CREATE TABLE IF NOT EXISTS a (id BIGINT PRIMARY KEY, n BIGINT NOT NULL, body TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS b (id BIGINT PRIMARY KEY, n BIGINT NOT NULL, body TEXT NOT NULL)`)
  const rows = async table =>
    (await db.query(`SELECT id, n, body FROM ${table} ORDER BY id`)).map(({ id, n, body }) => `${id}:${n}:${body}`)
  return { a: await rows('a'), b: await rows('b') }
}

const work = async ({ from, stepText, after }) => {
  // Not eval: the page's policy is the user's.
  const stepOf = (
    await import(URL.createObjectURL(new Blob([`export default ${stepText}`], { type: 'text/javascript' })))
  ).default
  const end = after && performance.now() + after.ms
  for (let k = from; ; k++) {
    const { changes, sql, durability } = stepOf(k)
    const run = (on, [table, id, row], options) =>
      on.exec(sql.replace('$t', table), row ? [id, row.n, row.body] : [id], options)
    if (changes.length === 1) await run(db, changes[0], { durability })
    else
      await db.transaction(async tx => {
        for (const change of changes) await run(tx, change)
      })
    if (!after) {
      // Not before Node has heard of it: what is said and not heard when the kill comes would count as not acknowledged.
      await heard(k)
    } else if (performance.now() > end) {
      sessionStorage.setItem('acknowledged', k + 1)
      if (after.how === 'reload') location.reload()
      else window.worker.terminate()
      await new Promise(() => {})
    }
  }
}

const deaths = {
  'the browser is killed': { kill: () => b.restart({ kill: true }) },
  'the tab is closed': {
    kill: async () => {
      await b.page.close({ runBeforeUnload: false })
      b.page = await b.newPage()
    },
  },
  'the worker is terminated': { after: 'terminate' },
  'the page is loaded anew': { after: 'reload' },
  'the tab crashes': {
    kill: async () => {
      const session = await b.page.context().newCDPSession(b.page)
      const crashed = new Promise(done => b.page.once('crash', done))
      session.send('Page.crash').catch(() => {})
      await crashed
      await b.page.close()
      b.page = await b.newPage()
    },
  },
}

test(`${rounds} deaths`, { timeout: 600_000 }, async t => {
  let [done, further, onlyInJournal] = [0, 0, 0]
  const heardOn = new WeakMap()
  for (let round = 0; round <= rounds; round++) {
    // Two of three in a worker: what one leaves is taken up by the other kind and by its own.
    const worker = round % 3 !== 2
    const found = await b.page.evaluate(look, { worker, script: workerUrl() })
    const allowed = [model(done), model(done + 1)]
    const at = allowed.findIndex(state => JSON.stringify(state) === JSON.stringify(found))
    if (at < 0) assert.deepEqual(found, allowed[0], `round ${round}: neither after ${done} steps nor after one more`)
    done += at
    further += at
    if (round === rounds) break

    const names = Object.keys(deaths)
    const name = names[(round * 7) % names.length]
    const { kill, after } = worker || !deaths[name].after ? deaths[name] : { after: 'reload' }
    let acknowledged = done
    const { page } = b
    const hear = k => {
      acknowledged = k + 1
    }
    if (!heardOn.has(page)) await page.exposeFunction('heard', k => heardOn.get(page)(k))
    heardOn.set(page, hear)
    const moment = 20 + Math.random() * 600
    const gone = page
      .evaluate(work, { from: done, stepText: stepOf.toString(), ...(after && { after: { how: after, ms: moment } }) })
      .then(
        () => assert.fail('the work never ends by itself'),
        error => error,
      )
    if (kill) {
      await Promise.race([sleep(moment), gone.then(error => Promise.reject(error))])
      await kill()
      assert.match(String(await gone), /closed|crash|Target|disconnected|context/i)
    } else if (after === 'reload') {
      assert.match(String(await gone), /context|navigat/i)
      await page.waitForFunction(() => window.ready)
    } else {
      await page.waitForFunction(() => sessionStorage.getItem('acknowledged'))
    }
    if (after) {
      acknowledged = await page.evaluate(() => {
        const acknowledged = Number(sessionStorage.getItem('acknowledged'))
        sessionStorage.clear()
        return acknowledged
      })
    }
    assert.ok(acknowledged > done, `round ${round}: nothing was done before ${name}`)
    done = acknowledged
    const last = stepOf(done - 1)
    if (worker && last.changes[0][2]) {
      const { journal, indexedDb } = await whereIs(b.page, `mark ${done - 1}.`)
      assert.ok(journal || indexedDb, `round ${round}: step ${done - 1} is nowhere after ${name}`)
      if (!indexedDb) onlyInJournal++
    }
  }
  t.diagnostic(`${done} steps, ${further} durable without their answer being heard`)
  t.diagnostic(`${onlyInJournal} rounds ended with the last row in the journal alone`)
  assert.ok(onlyInJournal > 0, 'no round ended with a row that only the journal had')
})
