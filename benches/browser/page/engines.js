// The contestants, each used as its documentation says, each with the same small interface.
//
// Invariant: every method does the whole job, through the engine's worker where it has one, and gives plain objects.
import * as duckdb from '@duckdb/duckdb-wasm'
import duckdbWorker from '@duckdb/duckdb-wasm/dist/duckdb-browser-eh.worker.js?url'
import duckdbWasm from '@duckdb/duckdb-wasm/dist/duckdb-eh.wasm?url'
import { PGlite } from '@electric-sql/pglite'
import Dexie from 'dexie'
import { connect } from 'kalamdb'
import { values } from './data.js'
import SqliteWorker from './sqlite-worker.js?worker'

const COLUMNS =
  'id INTEGER PRIMARY KEY, owner INTEGER NOT NULL, city INTEGER NOT NULL, price DOUBLE PRECISION NOT NULL, name TEXT NOT NULL'
/** Statements that make the table, with its second index or, as bare IndexedDB has it, without. */
const tables = ({ indexed = true } = {}) => [
  `CREATE TABLE items (${COLUMNS})`,
  ...(indexed ? ['CREATE INDEX items_owner ON items (owner)'] : []),
]
const GROUP = 'SELECT city, count(*) AS n, avg(price) AS mean FROM items GROUP BY city'

/** A worker that answers calls by id. */
function remote(worker) {
  const waiting = new Map()
  let next = 0
  worker.onmessage = ({ data }) => {
    const { resolve, reject } = waiting.get(data.id)
    waiting.delete(data.id)
    if (data.error === undefined) resolve(data.ok)
    else reject(new Error(data.error))
  }
  return (op, ...args) =>
    new Promise((resolve, reject) => {
      waiting.set(next, { resolve, reject })
      worker.postMessage({ id: next++, op, args })
    })
}

export async function kalamdb(name) {
  const db = await connect(name)
  return {
    db,
    create: async options => {
      for (const statement of tables(options)) await db.exec(statement)
    },
    fill: rows => db.insert('items', rows),
    get: id => db.queryOne('SELECT * FROM items WHERE id = $1', [id]),
    ofOwner: owner => db.query('SELECT * FROM items WHERE owner = $1', [owner]),
    range: from => db.query('SELECT * FROM items WHERE id >= $1 AND id < $2', [from, from + 100]),
    insert: r => db.exec('INSERT INTO items VALUES ($1, $2, $3, $4, $5)', values(r)),
    update: (id, price) => db.exec('UPDATE items SET price = $2 WHERE id = $1', [id, price]),
    group: () => db.query(GROUP),
    all: () => db.query('SELECT * FROM items'),
    close: () => db.close(),
  }
}

export async function sqlite(name) {
  const worker = new SqliteWorker()
  const call = remote(worker)
  await call('open', name)
  const INSERT = 'INSERT INTO items VALUES (?, ?, ?, ?, ?)'
  return {
    call,
    create: options => call('exec', tables(options).join(';')),
    fill: rows => call('insertAll', INSERT, rows.map(values)),
    get: async id => (await call('query', 'SELECT * FROM items WHERE id = ?', [id]))[0],
    ofOwner: owner => call('query', 'SELECT * FROM items WHERE owner = ?', [owner]),
    range: from => call('query', 'SELECT * FROM items WHERE id >= ? AND id < ?', [from, from + 100]),
    insert: r => call('query', INSERT, values(r)),
    update: (id, price) => call('query', 'UPDATE items SET price = ?2 WHERE id = ?1', [id, price]),
    group: () => call('query', GROUP),
    all: () => call('query', 'SELECT * FROM items'),
    close: async () => {
      await call('close')
      worker.terminate()
    },
  }
}

export async function pglite(name) {
  const db = new PGlite(`idb://${name}`, { relaxedDurability: true })
  await db.waitReady
  const rows = async (sql, params) => (await db.query(sql, params)).rows
  return {
    create: options => db.exec(tables(options).join(';')),
    fill: all =>
      db.transaction(async tx => {
        // 1000 rows a statement: one statement a row would take minutes.
        for (let from = 0; from < all.length; from += 1000) {
          const part = all.slice(from, from + 1000)
          const places = part.map((_, i) => `(${[1, 2, 3, 4, 5].map(c => `$${i * 5 + c}`)})`)
          await tx.query(`INSERT INTO items VALUES ${places}`, part.flatMap(values))
        }
      }),
    get: async id => (await rows('SELECT * FROM items WHERE id = $1', [id]))[0],
    ofOwner: owner => rows('SELECT * FROM items WHERE owner = $1', [owner]),
    range: from => rows('SELECT * FROM items WHERE id >= $1 AND id < $2', [from, from + 100]),
    insert: r => rows('INSERT INTO items VALUES ($1, $2, $3, $4, $5)', values(r)),
    update: (id, price) => rows('UPDATE items SET price = $2 WHERE id = $1', [id, price]),
    group: () => rows(GROUP),
    all: () => rows('SELECT * FROM items'),
    close: () => db.close(),
  }
}

export async function dexie(name) {
  const db = new Dexie(name)
  db.version(1).stores({ items: 'id, owner' })
  await db.open()
  const { items } = db
  return {
    create: async () => {},
    fill: rows => items.bulkAdd(rows),
    get: id => items.get(id),
    ofOwner: owner => items.where({ owner }).toArray(),
    range: from =>
      items
        .where('id')
        .between(from, from + 100)
        .toArray(),
    insert: r => items.add(r),
    update: (id, price) => items.update(id, { price }),
    group: async () => {
      const groups = new Map()
      await items.each(({ city, price }) => {
        const group = groups.get(city) ?? { city, n: 0, sum: 0 }
        group.n++
        group.sum += price
        groups.set(city, group)
      })
      return [...groups.values()].map(({ city, n, sum }) => ({ city, n, mean: sum / n }))
    },
    all: () => items.toArray(),
    close: async () => db.close(),
  }
}

/** DuckDB-wasm in its worker, in memory: it has no storage of its own in a browser. */
export async function duck() {
  const worker = new Worker(duckdbWorker)
  const db = new duckdb.AsyncDuckDB(new duckdb.VoidLogger(), worker)
  await db.instantiate(duckdbWasm)
  const connection = await db.connect()
  const rows = async sql => (await connection.query(sql)).toArray().map(row => row.toJSON())
  return {
    create: () => connection.query(tables({ indexed: false })[0]),
    // Its own way in: the rows of data.js, written as SQL.
    fill: ([{ id: from }, ...more]) =>
      connection.query(`INSERT INTO items SELECT i, i % 1000, i % 100, ((i * 7919) % 100000) / 100.0,
        'item number ' || i || ' of the shop' FROM range(${from}, ${from + more.length + 1}) t(i)`),
    group: () => rows(GROUP),
    all: () => rows('SELECT * FROM items'),
    close: async () => {
      await connection.close()
      await db.terminate()
    },
  }
}
