// A tab or a browser that dies in the middle of 200 000-row statements leaves each statement whole or absent, and
// every acknowledged one whole.
//
// Each round writes statement after statement until it is killed at a random moment, so the blow falls into the work
// of one, wherever that is: encoding, the storage transaction, or between two. The statements alternate between
// db.insert with objects, INSERT … SELECT, UPDATE of everything, and DELETE of a whole batch.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { browser } from './lib/harness.mjs'

const b = browser()
const size = 200_000

const kills = {
  'the tab is closed': async page => {
    await page.close({ runBeforeUnload: false })
  },
  'the tab crashes': async page => {
    const session = await page.context().newCDPSession(page)
    const crashed = new Promise(done => page.once('crash', done))
    session.send('Page.crash').catch(() => {})
    await crashed
    await page.close()
  },
  'the browser is killed': async () => {
    await b.restart({ kill: true })
  },
}

// Runs in the page until it dies. Each acknowledged step is said on the console, which reaches Node before the next.
const work = async ({ name, size, durability }) => {
  const db = await connectWhenFree({ name, durability })
  await db.exec('CREATE TABLE big (id BIGINT PRIMARY KEY, batch INT NOT NULL, body TEXT, version INT NOT NULL)')
  const digits = 'd(x) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9))'
  console.log('kalam-ack start')
  for (let step = 0; ; step++) {
    const first = step * size
    if (step % 4 === 0) {
      const rows = []
      for (let at = 0; at < size; at++) {
        rows.push({ id: BigInt(first + at), batch: step, body: `row ${at} of ${step}`, version: 0 })
      }
      await db.insert('big', rows)
    } else if (step % 4 === 1) {
      await db.exec(`INSERT INTO big
        WITH ${digits}, e(x) AS (VALUES (0),(1)),
             n(i) AS (SELECT a.x + 10*b.x + 100*c.x + 1000*f.x + 10000*g.x + 100000*e.x FROM d a, d b, d c, d f, d g, e)
        SELECT ${first} + i, ${step}, 'row ' || CAST(i AS TEXT) || ' of ${step}', 0 FROM n`)
    } else if (step % 4 === 2) {
      await db.exec('UPDATE big SET version = version + 1')
    } else {
      await db.exec('DELETE FROM big WHERE batch = $1', [step - 3])
    }
    console.log(`kalam-ack ${step}`)
  }
}

const look = async ({ name }) => {
  const db = await connectWhenFree(name)
  const batches =
    await db.query(`SELECT batch, count(*) AS n, count(DISTINCT id) AS ids, min(id) AS first, max(id) AS last,
    min(version) AS low, max(version) AS high, sum(length(body)) AS chars FROM big GROUP BY batch ORDER BY batch`)
  const row = await db.queryOne('SELECT body FROM big WHERE id = (SELECT max(id) FROM big)')
  // And the database works on.
  const after = await db.exec("INSERT INTO big VALUES (-1, -1, 'after the crash', 0)")
  await db.close()
  return { batches, row, after: after.rowsAffected }
}

// The states that the table may be in after `done` whole steps: batches with their version.
function expected(done) {
  let batches = new Map()
  for (let step = 0; step < done; step++) {
    if (step % 4 < 2) batches.set(step, 0)
    else if (step % 4 === 2) batches = new Map([...batches].map(([batch, version]) => [batch, version + 1]))
    else batches.delete(step - 3)
  }
  return [...batches]
}

const bodyLength = step => {
  let chars = 0
  for (let at = 0; at < size; at++) chars += `row ${at} of ${step}`.length
  return BigInt(chars)
}

// The last round is long enough to be hit in the UPDATE or the DELETE.
const rounds = [
  ['relaxed', 1500],
  ['strict', 4000],
  ['relaxed', 9000],
]

for (const [how, kill] of Object.entries(kills)) {
  describe(how, () => {
    for (const [round, [durability, within]] of rounds.entries()) {
      test(`round ${round + 1}, ${durability}, within ${within / 1000} s`, async t => {
        const name = `crash-${how.replaceAll(' ', '-')}-${round}`
        const page = await b.newPage()
        let acknowledged = -2
        const started = new Promise(done => {
          page.on('console', message => {
            const [tag, what] = message.text().split(' ')
            if (tag !== 'kalam-ack') return
            acknowledged = what === 'start' ? -1 : Number(what)
            if (what === 'start') done()
          })
        })
        const gone = page.evaluate(work, { name, size, durability }).then(
          () => assert.fail('the work never ends by itself'),
          error => error,
        )
        await Promise.race([started, gone.then(error => Promise.reject(error))])
        const moment = Math.round(Math.random() * within)
        await Promise.race([sleep(moment), gone])
        await kill(page)
        const error = await gone
        assert.match(String(error), /closed|crash|Target|disconnected/i)

        const { batches, row, after } = await b.page.evaluate(look, { name })
        t.diagnostic(
          `killed after ${moment} ms, ${acknowledged + 1} statements acknowledged, ${batches.length} batches`,
        )
        for (const one of batches) {
          assert.equal(one.n, BigInt(size), `batch ${one.batch} is whole`)
          assert.equal(one.ids, BigInt(size), `batch ${one.batch} has no row twice`)
          assert.equal(one.first, BigInt(one.batch * size))
          assert.equal(one.last, BigInt((one.batch + 1) * size - 1))
          assert.equal(one.low, one.high, `batch ${one.batch} has one version`)
          assert.equal(one.chars, bodyLength(one.batch), `batch ${one.batch} has its texts`)
        }
        const found = batches.map(one => [one.batch, one.low])
        // Everything acknowledged, and perhaps the one statement that was on its way.
        const allowed = [expected(acknowledged + 1), expected(acknowledged + 2)]
        assert.ok(
          allowed.some(state => JSON.stringify(state) === JSON.stringify(found)),
          `found ${JSON.stringify(found)}, allowed ${JSON.stringify(allowed)}`,
        )
        if (found.length > 0) assert.match(row.body, /^row 199999 of /)
        assert.equal(after, 1)
      })
    }
  })
}
