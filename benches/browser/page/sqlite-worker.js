// SQLite on OPFS (the sahpool VFS) in a dedicated worker, with statements prepared once: how its users run it.
import sqlite3InitModule from '@sqlite.org/sqlite-wasm'

let db
const statements = new Map()

function prepared(sql) {
  let statement = statements.get(sql)
  if (statement === undefined) {
    statement = db.prepare(sql)
    statements.set(sql, statement)
  }
  return statement
}

const ops = {
  async open(name) {
    const sqlite3 = await sqlite3InitModule()
    const pool = await sqlite3.installOpfsSAHPoolVfs({ name: `pool-${name}`, initialCapacity: 6 })
    db = new pool.OpfsSAHPoolDb(`/${name}.db`)
    db.exec('PRAGMA synchronous = NORMAL')
    return sqlite3.version.libVersion
  },
  exec(sql) {
    db.exec(sql)
  },
  query(sql, params) {
    const statement = prepared(sql)
    if (params?.length) statement.bind(params)
    const rows = []
    while (statement.step()) rows.push(statement.get({}))
    statement.reset(true)
    return rows
  },
  insertAll(sql, rows) {
    db.transaction(() => {
      const statement = prepared(sql)
      for (const row of rows) statement.bind(row).stepReset()
    })
  },
  close() {
    for (const statement of statements.values()) statement.finalize()
    statements.clear()
    db.close()
  },
}

self.onmessage = async ({ data: { id, op, args } }) => {
  try {
    self.postMessage({ id, ok: await ops[op](...args) })
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) })
  }
}
