// What statements cost: every engine with the same 20 000 rows, persisted where it can, through its worker.
import { OWNERS, row, rows } from './data.js'
import { dexie, duck, kalamdb, pglite, sqlite } from './engines.js'
import { inTurns, SETTLE_MS } from './measure.js'

const ROWS = 20_000

/** So many key gets are run of each engine before those that are measured warm: by then its code is compiled well. */
const WARM_UP = 5000

/** All engines, filled, and with one answer each compared. */
async function contestants() {
  const engines = {
    kalamdb: await kalamdb('statements'),
    sqlite: await sqlite('statements'),
    pglite: await pglite('statements'),
    dexie: await dexie('statements'),
    duckdb: await duck(),
  }
  for (const engine of Object.values(engines)) {
    await engine.create()
    await engine.fill(rows(0, ROWS))
  }
  for (const [name, engine] of Object.entries(engines)) {
    const groups = await engine.group()
    const total = groups.reduce((sum, group) => sum + Number(group.n), 0)
    if (groups.length !== 100 || total !== ROWS)
      throw new Error(`${name} counts ${total} rows in ${groups.length} groups`)
    if (engine.ofOwner && (await engine.ofOwner(7)).length !== ROWS / OWNERS)
      throw new Error(`${name} finds other rows`)
  }
  return engines
}

/** Milliseconds per operation, by operation and engine. */
export async function statements() {
  const engines = await contestants()
  const run = (method, argument, options) => {
    const able = Object.entries(engines).filter(([, engine]) => engine[method])
    return inTurns(Object.fromEntries(able.map(([name, engine]) => [name, n => engine[method](...argument(n))])), {
      settleMs: SETTLE_MS,
      ...options,
    })
  }
  const warm = async (method, argument, options) => {
    for (const engine of Object.values(engines).filter(engine => engine[method])) {
      for (let n = 0; n < WARM_UP; n++) await engine[method](...argument(n))
    }
    return run(method, argument, options)
  }
  const some = n => (n * 7919) % ROWS
  const result = {
    'key get, the first 500': await run('get', n => [some(n)], { perRound: 50 }),
    [`key get, after ${WARM_UP}`]: await warm('get', n => [some(n)], { perRound: 50 }),
    'index lookup of 20 rows': await run('ofOwner', n => [some(n) % OWNERS], { perRound: 25 }),
    'single insert, awaited': await run('insert', n => [row(ROWS + n)], { perRound: 20 }),
    'update by key, awaited': await run('update', n => [some(n), n], { perRound: 20 }),
    'range of 100 rows by key': await run('range', n => [some(n) % (ROWS - 100)], { perRound: 20 }),
    'GROUP BY over 20 000 rows': await run('group', () => [], { perRound: 3 }),
    '20 000 rows to objects': await run('all', () => [], { rounds: 5 }),
  }
  for (const engine of Object.values(engines)) await engine.close()
  return result
}
