// What persisting costs: KalamDB beside raw IndexedDB and SQLite on OPFS.
import { connect } from 'kalamdb'
import { row, rows, values } from './data.js'
import { kalamdb, sqlite } from './engines.js'
import { inTurns, SETTLE_MS, time } from './measure.js'

const done = request =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error)
  })

/** A bare IndexedDB database with one object store. */
async function raw(name) {
  const request = indexedDB.open(name)
  request.onupgradeneeded = () => request.result.createObjectStore('items', { keyPath: 'id' })
  const db = await done(request)
  const transact = work =>
    new Promise((resolve, reject) => {
      const tx = db.transaction('items', 'readwrite', { durability: 'relaxed' })
      tx.oncomplete = resolve
      tx.onerror = () => reject(tx.error)
      work(tx.objectStore('items'))
      tx.commit()
    })
  return {
    put: r => transact(store => store.put(r)),
    fill: all =>
      transact(store => {
        for (const r of all) store.put(r)
      }),
    close: () => db.close(),
  }
}

/** Writes: a bulk insert, single inserts awaited together, one awaited insert. Nobody keeps more than the primary key. */
export async function writes() {
  const [ours, theirs, bare] = [await kalamdb('writes'), await sqlite('writes'), await raw('raw-writes')]
  await ours.create({ indexed: false })
  await theirs.create({ indexed: false })
  const bulk = 20_000
  // Ten million apart: no contestant's rows ever meet another's.
  const base = n => 10_000_000 + n * bulk
  const result = {
    bulk: await inTurns(
      {
        kalamdb: (_, all) => ours.fill(all),
        sqlite: (_, all) => theirs.fill(all),
        indexeddb: (_, all) => bare.fill(all),
      },
      { rounds: 5, settleMs: SETTLE_MS, given: n => rows(base(n), base(n) + bulk) },
    ),
    together: await inTurns(
      {
        kalamdb: n => Promise.all(Array.from({ length: 1000 }, (_, i) => ours.insert(row(n * 1000 + i)))),
        indexeddb: async n => {
          for (let i = 0; i < 1000; i++) await bare.put(row(n * 1000 + i))
        },
      },
      { rounds: 3 },
    ),
    one: await inTurns(
      {
        kalamdb: n => ours.insert(row(1_000_000 + n)),
        indexeddb: n => bare.put(row(1_000_000 + n)),
      },
      { rounds: 15, perRound: 20 },
    ),
  }
  await Promise.all([ours.close(), theirs.close(), bare.close()])
  return result
}

/** Fills a database with so many rows, flushed to segments. */
export async function prepare(name, count) {
  const db = await connect(name)
  await db.exec('CREATE TABLE items (id BIGINT PRIMARY KEY, owner INT, city INT, price DOUBLE, name TEXT)')
  for (let from = 0; from < count; from += 100_000) {
    await db.insert(
      'items',
      rows(from, Math.min(count, from + 100_000)).map(r => ({ ...r, id: BigInt(r.id) })),
    )
  }
  await db.exec('STORAGE FLUSH ALL')
  await db.exec('STORAGE COMPACT ALL')
  await db.close()
}

/** Opening a database and its first answer by key, in milliseconds. */
export async function opening(names) {
  const contestants = Object.fromEntries(
    names.map(([name, count]) => [
      name,
      async n => {
        const db = await connect(name)
        const found = await db.queryOne('SELECT name FROM items WHERE id = $1', [BigInt((n * 7919) % count)])
        if (found === undefined) throw new Error(`${name} has lost a row`)
        await db.close()
      },
    ]),
  )
  return inTurns(contestants, { rounds: 5 })
}

/** A scan of every row, right after opening and again. */
export async function scan(name) {
  const db = await connect(name)
  const sql = 'SELECT count(*) AS n, sum(price) AS total, max(name) AS last FROM items'
  const first = await time(() => db.query(sql))
  const second = await time(() => db.query(sql))
  const { memory } = await db.status()
  await db.close()
  return { first, second, wasm: memory.wasm }
}

/** Bytes of the same rows as CSV. */
export function csvBytes(count) {
  let bytes = 0
  for (let id = 0; id < count; id++) bytes += `${values(row(id)).join(',')}\n`.length
  return bytes
}

/** The same rows as one IndexedDB record each. */
export async function fillRaw(name, count) {
  const bare = await raw(name)
  for (let from = 0; from < count; from += 20_000) await bare.fill(rows(from, Math.min(count, from + 20_000)))
  bare.close()
}
