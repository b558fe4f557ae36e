// Runs SQL in headless Chromium for a driver in another process: JSON lines in, JSON lines out.
//
//   {"id":1,"op":"open","db":"name"}               -> {"id":1,"ok":true}
//   {"id":2,"op":"run","db":"name","sql":"…"}      -> {"id":2,"ok":true,"columns":[{"name","type"}],"rows":[["1",null]],"rowsAffected":0}
//   {"id":3,"op":"reset","db":"name"}              -> deletes the database and opens it anew
//   {"id":4,"op":"close","db":"name"}
//   {"op":"exit"}
//
// The first line it writes is {"ready":true}. A failed request is {"id":2,"ok":false,"error":{code,sqlstate,message,hint,position}};
// an error that is no KalamError has the code BRIDGE_ERROR. Every value is text as the SDK gave it, NULL is null.
// Invariant: requests are answered in order, one line each, and the browser never outlives this process: the end of
// stdin, a signal and a broken pipe all kill it.

import { existsSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { launch, newProfile, removeProfile } from '../../scripts/lib/chromium.mjs'
import { serve } from '../../scripts/lib/serve.mjs'

const site = fileURLToPath(new URL('dist', import.meta.url))
if (!existsSync(`${site}/index.html`)) {
  console.error('slt-bridge: the test page is not built: run `npm run build` in tests/browser')
  process.exit(1)
}

let chromium
let profile
let server

async function stop(code) {
  await chromium?.kill()
  await server?.close()
  if (profile) await removeProfile(profile)
  process.exit(code)
}
process.stdout.on('error', () => stop(1))
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => stop(1))

const say = message => process.stdout.write(`${JSON.stringify(message)}\n`)

try {
  profile = await newProfile()
  server = await serve(site)
  chromium = await launch({ profile })
  const page = await chromium.context.newPage()
  await page.goto(server.url)
  await page.waitForFunction(() => window.ready)
  await page.evaluate(setUp)
  say({ ready: true })

  for await (const line of createInterface({ input: process.stdin })) {
    if (line.trim() === '') continue
    let request = {}
    try {
      request = JSON.parse(line)
      if (request.op === 'exit') break
      // One string each way: Playwright's own serialiser is slow for large results.
      const answer = await page.evaluate(text => window.bridge(text), line)
      process.stdout.write(`${answer}\n`)
    } catch (error) {
      say({ id: request.id, ok: false, error: { code: 'BRIDGE_ERROR', sqlstate: 'XX000', message: String(error) } })
    }
  }
  await stop(0)
} catch (error) {
  console.error(`slt-bridge: ${error?.stack ?? error}`)
  await stop(1)
}

// Runs in the page.
function setUp() {
  const open = new Map()

  const text = value => {
    if (value === null || value === undefined) return null
    if (value instanceof Date) return value.toISOString()
    if (value instanceof Uint8Array) {
      return `\\x${Array.from(value, byte => byte.toString(16).padStart(2, '0')).join('')}`
    }
    if (value instanceof Float32Array) return JSON.stringify([...value])
    if (typeof value === 'object') return JSON.stringify(value)
    return String(value)
  }

  const ops = {
    async open({ db }) {
      if (!open.has(db)) open.set(db, await kalamdb.connect(db))
      return {}
    },
    async close({ db }) {
      await open.get(db)?.close()
      open.delete(db)
      return {}
    },
    async reset(request) {
      await ops.close(request)
      await kalamdb.deleteDatabase(request.db)
      return ops.open(request)
    },
    async run({ db, sql }) {
      const on = open.get(db)
      if (!on) throw new Error(`database '${db}' is not open`)
      // The receipt belongs to statements without rows; the rows to the others. `query` of the former gives no columns.
      if (!givesRows(sql)) {
        const { rowsAffected } = await on.exec(sql)
        return { columns: [], rows: [], rowsAffected }
      }
      const rows = await on.query(sql)
      const columns = rows.columns.map(({ name, type }) => ({ name, type }))
      if (new Set(columns.map(({ name }) => name)).size < columns.length) return renamed(on, sql, columns)
      const parsed = columns.some(({ type }) => type === 'JSON') && !/\bRETURNING\b/i.test(sql)
      if (parsed) rows.splice(0, rows.length, ...(await unparsed(() => on.query(sql), columns)))
      return { columns, rows: rows.map(row => columns.map(({ name }) => text(row[name]))), rowsAffected: 0 }
    },
  }

  // What PREPARE named, by name: whether EXECUTE gives rows depends on it.
  const kept = new Map()
  const folded = name => (name.startsWith('"') ? name.slice(1, -1) : name.toLowerCase())

  // JSON comes parsed, and the files say how it is written: so such a query runs again with its values left as text.
  const unparsed = async (query, columns) => {
    const template = `{${columns.map(({ name }) => `${JSON.stringify(name)}:null`).join(',')}}`
    const { parse } = JSON
    JSON.parse = text => (text === template ? parse(text) : text)
    try {
      return await query()
    } finally {
      JSON.parse = parse
    }
  }

  // The last statement of a request is the one that answers.
  const givesRows = sql => {
    const code = sql.replace(/--.*$/gm, '').replace(/\/\*[\s\S]*?\*\//g, '')
    // A semicolon within text ends nothing.
    const bare = code.replace(/'(?:[^']|'')*'/g, "''")
    const last = bare.split(';').findLast(part => part.trim() !== '') ?? ''
    const asUser = /^\s*EXECUTE\s+AS\s+USER\s+\S+\s*\(([\s\S]*?);?\s*\)\s*;?\s*$/i.exec(bare)
    if (asUser) return givesRows(asUser[1])
    const prepared = /^\s*PREPARE\s+("[^"]+"|\w+)[^']*?\bAS\b([\s\S]*)$/i.exec(last)
    if (prepared) kept.set(folded(prepared[1]), prepared[2])
    if (/\bRETURNING\b/i.test(last)) return true
    const changes = /^\s*WITH\b[\s\S]*\)\s*(INSERT|UPDATE|DELETE)\b/i.test(last)
    const execute = /^\s*EXECUTE\s+("[^"]+"|\w+)/i.exec(last)
    if (execute) return givesRows(kept.get(folded(execute[1])) ?? '')
    return !changes && /^\s*(\(|(SELECT|WITH|VALUES|TABLE|EXPLAIN|SHOW|DESC|DESCRIBE)\b)/i.test(last)
  }

  // Rows are objects: of two columns with one name only one is left. So such a query runs again with names of its own.
  const renamed = async (on, sql, columns) => {
    const names = columns.map((_, at) => `c${at}`)
    const inner = sql.replace(/;\s*$/, '')
    // The order of a subquery is no order: one by places is said again outside.
    const order = /\bORDER\s+BY\s+(?:\d+(?:\s+(?:ASC|DESC))?(?:\s+NULLS\s+(?:FIRST|LAST))?\s*,?\s*)+$/i.exec(inner)
    const rows = await on.query(`SELECT * FROM (${inner}\n) AS bridge(${names.join(', ')}) ${order?.[0] ?? ''}`)
    return { columns, rows: rows.map(row => names.map(name => text(row[name]))), rowsAffected: 0 }
  }

  window.bridge = async line => {
    const request = JSON.parse(line)
    try {
      const op = ops[request.op]
      if (!op) throw new Error(`unknown op '${request.op}'`)
      return JSON.stringify({ id: request.id, ok: true, ...(await op(request)) })
    } catch (error) {
      const plain =
        error instanceof kalamdb.KalamError
          ? error.toJSON()
          : { code: 'BRIDGE_ERROR', sqlstate: 'XX000', message: String(error?.stack ?? error) }
      const { code, sqlstate, message, hint, position } = plain
      return JSON.stringify({ id: request.id, ok: false, error: { code, sqlstate, message, hint, position } })
    }
  }
}
