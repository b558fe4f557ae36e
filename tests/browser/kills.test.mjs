// The browser is killed fifty times at random moments of a write load. After each kill every acknowledged strict
// change is there, every transaction is whole, and nothing else is: the tables are what a list of steps says, or one
// step further, because the step on its way may have become durable without its answer being heard.
//
// The load is a fixed sequence of steps over two tables of one database: single rows, transactions over both tables,
// hundreds of rows at once, updates, deletions, and between them flushes and compactions, which change nothing that
// can be seen. A kill falls into the work of some step, wherever that is.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { browser } from './lib/harness.mjs'

const b = browser()
const rounds = Number(process.env.KALAM_KILL_ROUNDS ?? 50)
const MANY = 300

/** What step `k` changes; runs here and, as text, in the page. */
function stepOf(k) {
  const kind = k % 6
  if (kind === 0) return { insert: k }
  if (kind === 1) return { pair: k }
  if (kind === 2) return { update: k - 2, to: k }
  if (kind === 3) return { many: k }
  if (kind === 4) return { unpair: k - 3, from: k - 4 }
  // Every other bunch stays for a while, so that there is something to flush and compact.
  return k % 12 === 5 ? { drop: k - 2 } : { raise: k - 2, drop: k - 38 }
}

/** The tables after the steps before `end`, as rows by id. */
function model(end) {
  const [a, many] = [new Map(), new Map()]
  for (let k = 0; k < end; k++) {
    const step = stepOf(k)
    if (step.insert !== undefined) a.set(step.insert, 0)
    if (step.pair !== undefined) {
      a.set(step.pair, 0)
      many.set(step.pair * 1000, { bunch: -1, n: 0 })
    }
    if (step.update !== undefined) a.set(step.update, step.to)
    if (step.many !== undefined)
      for (let i = 0; i < MANY; i++) many.set(step.many * 1000 + i, { bunch: step.many, n: 0 })
    if (step.unpair !== undefined) {
      a.delete(step.unpair)
      many.delete(step.unpair * 1000)
      a.set(step.from, -1)
    }
    if (step.drop !== undefined) for (const [id, row] of many) if (row.bunch === step.drop) many.delete(id)
    if (step.raise !== undefined) for (const row of many.values()) if (row.bunch === step.raise) row.n++
  }
  return {
    a: [...a].sort(([x], [y]) => x - y).map(([id, n]) => `${id}:${n}`),
    many: [...many].sort(([x], [y]) => x - y).map(([id, { bunch, n }]) => `${id}:${bunch}:${n}`),
  }
}

// Both run in the page.
const look = async () => {
  window.db = await connectWhenFree({ name: 'kills', durability: 'strict' })
  window.records = (await db.status()).records
  await db.exec(`CREATE TABLE IF NOT EXISTS a (id BIGINT PRIMARY KEY, n INT NOT NULL) WITH (FLUSH_POLICY='rows:100');
    CREATE TABLE IF NOT EXISTS many (id BIGINT PRIMARY KEY, bunch BIGINT NOT NULL, n INT NOT NULL, body TEXT)
      WITH (FLUSH_POLICY='rows:1000')`)
  const a = await db.query('SELECT id, n FROM a ORDER BY id')
  const many = await db.query('SELECT id, bunch, n FROM many ORDER BY id')
  return { a: a.map(r => `${r.id}:${r.n}`), many: many.map(r => `${r.id}:${r.bunch}:${r.n}`) }
}

const work = async ({ from, stepText, MANY }) => {
  // Not eval: the page's policy is the user's.
  const stepOf = (
    await import(URL.createObjectURL(new Blob([`export default ${stepText}`], { type: 'text/javascript' })))
  ).default
  for (let k = from; ; k++) {
    const step = stepOf(k)
    if (step.insert !== undefined) await db.exec('INSERT INTO a VALUES ($1, 0)', [step.insert])
    if (step.pair !== undefined) {
      await db.transaction(async tx => {
        await tx.exec('INSERT INTO a VALUES ($1, 0)', [step.pair])
        await tx.exec("INSERT INTO many VALUES ($1, -1, 0, 'pair')", [step.pair * 1000])
      })
    }
    if (step.update !== undefined) await db.exec('UPDATE a SET n = $2 WHERE id = $1', [step.update, step.to])
    if (step.many !== undefined) {
      const rows = Array.from({ length: MANY }, (_, i) => ({
        id: BigInt(step.many * 1000 + i),
        bunch: BigInt(step.many),
        n: 0,
        body: `row ${i} of ${step.many}`,
      }))
      await db.insert('many', rows)
    }
    if (step.unpair !== undefined) {
      await db.transaction(async tx => {
        await tx.exec('DELETE FROM a WHERE id = $1', [step.unpair])
        await tx.exec('DELETE FROM many WHERE id = $1', [step.unpair * 1000])
        await tx.exec('UPDATE a SET n = -1 WHERE id = $1', [step.from])
      })
    }
    if (step.drop !== undefined) {
      await db.transaction(async tx => {
        if (step.raise !== undefined) await tx.exec('UPDATE many SET n = n + 1 WHERE bunch = $1', [step.raise])
        await tx.exec('DELETE FROM many WHERE bunch = $1', [step.drop])
      })
    }
    // Not before Node has heard of it: what is said and not heard when the kill comes would count as not acknowledged.
    await heard(k)
    if (k % 7 === 6) await db.exec('STORAGE FLUSH ALL')
    if (k % 31 === 30) await db.exec('STORAGE COMPACT ALL')
  }
}

test(`${rounds} kills`, { timeout: 900_000 }, async t => {
  let done = 0
  let further = 0
  for (let round = 0; round <= rounds; round++) {
    const found = await b.page.evaluate(look)
    const allowed = [model(done), model(done + 1)]
    const at = allowed.findIndex(state => JSON.stringify(state) === JSON.stringify(found))
    if (at < 0) {
      const records = await b.page.evaluate(() => window.records)
      const where = `round ${round}, ${records} records in storage`
      assert.deepEqual(found, allowed[0], `${where}: neither after ${done} steps nor after one more`)
    }
    done += at
    further += at
    if (round === rounds) break

    let acknowledged = done
    await b.page.exposeFunction('heard', k => {
      acknowledged = k + 1
    })
    const gone = b.page.evaluate(work, { from: done, stepText: stepOf.toString(), MANY }).then(
      () => assert.fail('the work never ends by itself'),
      error => error,
    )
    await Promise.race([sleep(Math.random() * 900), gone.then(error => Promise.reject(error))])
    await b.restart({ kill: true })
    assert.match(String(await gone), /closed|crash|Target|disconnected/i)
    done = acknowledged
  }
  t.diagnostic(`${done} steps, ${further} of them durable without their answer being heard`)
  assert.ok(done > rounds, 'the load got somewhere')
})
