// `make demo`: the thin line, end to end, in a real browser on real data.
//
// It opens the playground (built from the packed npm package) in headless Chromium on a fresh profile, imports three
// million flights and the airports into IndexedDB, runs five queries, closes the browser, opens it again on the same
// profile and compares what it finds with what it left. Invariant: exit code 0 means that the second browser saw
// exactly the counts and sums that the first one had acknowledged; every figure printed was measured in this run.
//
// With a terminal it then serves the page until Ctrl-C; when CI is set, or there is no terminal, it ends at once.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { launch, newProfile, removeProfile } from './lib/chromium.mjs'
import { installPacked } from './lib/packed.mjs'
import { serve } from './lib/serve.mjs'
import { formatBytes, formatCount, formatMs, formatTable, heading, liveLine } from './lib/terminal.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const database = 'demo'
const examples = JSON.parse(readFileSync(join(root, 'www/examples.json'), 'utf8'))
const queries = ['join', 'having', 'window', 'lookup', 'update'].map(name => {
  const example = examples.find(one => one.name === name)
  if (!example) throw new Error(`www/examples.json has no example '${name}'`)
  return example
})

const tables = JSON.parse(readFileSync(join(root, 'www/samples.json'), 'utf8'))

// What must be the same after a restart: counts, sums over every column, and the rows that the UPDATE touched.
const fingerprints = {
  flights: `SELECT count(*) AS rows, sum(delay) AS delays, sum(distance) AS miles, min(date) AS first, max(date) AS last,
  count(DISTINCT origin) AS origins, count(DISTINCT destination) AS destinations FROM flights`,
  updated: `SELECT count(*) AS rows, sum(delay) AS delays, min(delay) AS least FROM flights WHERE origin = 'SFO'`,
  airports: `SELECT count(*) AS rows, count(DISTINCT iata) AS keys, round(sum(latitude + longitude), 6) AS places FROM airports`,
}

let failed = false
let chromium
let server
const profile = await newProfile()
try {
  build()
  server = await serve(join(root, 'www/dist'))
  await demo()
} catch (error) {
  failed = true
  console.error(`\ndemo: ${error?.stack ?? error}`)
} finally {
  await chromium?.kill()
  await removeProfile(profile)
}
if (!failed && process.stdin.isTTY && process.stdout.isTTY && !process.env.CI) {
  console.log(`\nThe playground is served at ${server.url} until you press Ctrl-C.`)
  await new Promise(done => process.once('SIGINT', done))
}
await server?.close()
process.exit(failed ? 1 : 0)

function build() {
  const vite = join(root, 'www/node_modules/vite/bin/vite.js')
  if (!existsSync(vite)) throw new Error('the packages of www/ are not installed: run `make setup`')
  installPacked(['www'])
  execFileSync(process.execPath, [vite, 'build', '--logLevel', 'warn'], { cwd: join(root, 'www'), stdio: 'inherit' })
}

async function demo() {
  heading('First visit')
  chromium = await launch({ profile })
  let page = await openPage()
  const first = await page.evaluate(() => window.kalam.openMs)
  console.log(`opened IndexedDB database '${database}' in ${formatMs(first)}: engine fetched, compiled and started`)

  heading('Import')
  for (const table of tables) await importTable(page, table)

  for (const query of queries) {
    heading(`${query.title}: ${query.note}`)
    console.log(query.sql.replace(/^--.*\n/, ''))
    const { text, ms } = await runQuery(page, query)
    console.log(`\n${text}\n${formatMs(ms)}`)
  }

  const before = await readFingerprints(page)
  await screenshot(page)
  const used = await page.evaluate(() => navigator.storage.estimate())
  const full = await page.evaluate(async () => (await window.kalam.db.status()).memory)

  heading('Close the browser and open it again')
  await chromium.close()
  chromium = undefined
  const onDisk = sizeOf(join(profile, 'Default/IndexedDB'))
  chromium = await launch({ profile })
  page = await openPage()
  const cold = await page.evaluate(() => window.kalam.openMs)
  const hydrate = await timed(page, fingerprints.updated)
  const again = await timed(page, fingerprints.updated)
  const after = await readFingerprints(page)
  for (const name of Object.keys(fingerprints)) {
    const same = JSON.stringify(before[name]) === JSON.stringify(after[name])
    console.log(`${same ? 'same' : 'DIFFERENT'}  ${name.padEnd(8)}  ${show(after[name])}`)
    if (!same) {
      console.log(`           before    ${show(before[name])}`)
      failed = true
    }
  }
  await page.reload()
  const warm = await waitOpen(page)

  heading('In figures')
  const lines = [
    ['first visit, to an open database', formatMs(first)],
    ['cold opening (browser restarted)', formatMs(cold)],
    ['warm opening (page reloaded)', formatMs(warm)],
    ['first query, which reads three million rows in', formatMs(hydrate)],
    ['the same query again', formatMs(again)],
    ['IndexedDB on disk', formatBytes(onDisk)],
    ['storage as the browser counts it', formatBytes(used.usage ?? 0)],
    ['profile folder, engine code cache included', formatBytes(sizeOf(profile))],
    ['wasm memory after import and queries', formatBytes(full.wasm)],
    ['of it rows kept in memory', `${formatCount(full.hotRows)} in ${formatBytes(full.hotBytes)}`],
    ['screenshot', 'artifacts/demo.png'],
  ]
  for (const [label, value] of lines) console.log(`${label.padEnd(48)} ${value.padStart(24)}`)
  await chromium.close()
  chromium = undefined
  if (failed) throw new Error('the data did not survive the restart: see DIFFERENT above')
}

async function openPage() {
  const page = await chromium.context.newPage()
  await page.setViewportSize({ width: 1360, height: 900 })
  await page.goto(`${server.url}?db=${database}`)
  await waitOpen(page)
  return page
}

async function waitOpen(page) {
  await page.waitForFunction(() => window.kalam !== undefined)
  return page.evaluate(() => window.kalam.ready.then(() => window.kalam.openMs))
}

async function importTable(page, table) {
  const line = liveLine()
  const onConsole = message => {
    const [tag, json] = splitOnce(message.text(), ' ')
    if (tag === 'kalam-progress') line.show(describe(table.table, JSON.parse(json)))
  }
  page.on('console', onConsole)
  const result = await page.evaluate(async ({ table: name, file, format, create }) => {
    const { db } = window.kalam
    await db.exec(`DROP TABLE IF EXISTS ${name}`)
    await db.exec(create)
    const began = performance.now()
    const { rowsAffected } = await db.import(name, new URL(`data/${file}`, document.baseURI), {
      format,
      onProgress: progress => console.debug('kalam-progress', JSON.stringify(progress)),
    })
    return { rowsAffected, ms: performance.now() - began }
  }, table)
  page.off('console', onConsole)
  const rate = formatCount(Math.round(result.rowsAffected / (result.ms / 1000)))
  line.end(
    `${table.table}: ${formatCount(result.rowsAffected)} rows from ${table.file} in ${formatMs(result.ms)} (${rate} rows/s)`,
  )
}

function describe(name, { phase, bytes, totalBytes, rows, totalRows }) {
  // Parquet is read first (a tenth of the work) and decoded then; CSV is decoded while it is read.
  const read = totalBytes ? bytes / totalBytes : 0
  const write = totalRows ? 0.1 + (0.9 * rows) / totalRows : 0.1
  const part = phase === 'done' ? 1 : phase === 'write' ? write : rows > 0 ? read : read / 10
  const bar = '█'.repeat(Math.round(part * 24)).padEnd(24, '░')
  const what = phase === 'read' ? `${formatBytes(bytes)} read` : `${formatCount(rows)} rows`
  return `${name}: ${bar} ${Math.round(part * 100)} %  ${what}`
}

// A query's rows come back as text: the page's own formatting of values is for eyes, this one is exact.
async function runQuery(page, { sql, name }) {
  const result = await page.evaluate(
    async ({ sql, change }) => {
      const { db } = window.kalam
      const began = performance.now()
      if (change) {
        const { rowsAffected } = await db.exec(sql)
        return { rowsAffected, ms: performance.now() - began }
      }
      const rows = await db.query(sql)
      const ms = performance.now() - began
      const text = value =>
        value === null ? 'NULL' : value instanceof Date ? value.toISOString().slice(0, 10) : String(value)
      return { ms, columns: rows.columns, rows: rows.map(row => rows.columns.map(({ name }) => text(row[name]))) }
    },
    { sql, change: name === 'update' },
  )
  if (result.rows) return { ms: result.ms, text: formatTable(result.columns, result.rows) }
  return { ms: result.ms, text: `${formatCount(result.rowsAffected)} rows updated` }
}

async function timed(page, sql) {
  return page.evaluate(async sql => {
    const began = performance.now()
    await window.kalam.db.query(sql)
    return performance.now() - began
  }, sql)
}

async function readFingerprints(page) {
  const found = {}
  for (const [name, sql] of Object.entries(fingerprints)) {
    found[name] = await page.evaluate(async sql => {
      const row = await window.kalam.db.queryOne(sql)
      return JSON.parse(JSON.stringify(row, (_, value) => (typeof value === 'bigint' ? String(value) : value)))
    }, sql)
  }
  return found
}

// The page as a visitor sees it: the query typed into its editor and run by keyboard.
async function screenshot(page) {
  await page.click('#refresh')
  await page.fill('#sql', queries[0].sql)
  await page.press('#sql', 'Control+Enter')
  await page.waitForFunction(() => document.querySelectorAll('#grid tbody td').length > 20)
  mkdirSync(join(root, 'artifacts'), { recursive: true })
  await page.screenshot({ path: join(root, 'artifacts/demo.png') })
}

function show(row) {
  return Object.entries(row)
    .map(([key, value]) => `${key} ${value}`)
    .join(' · ')
}

function splitOnce(text, separator) {
  const at = text.indexOf(separator)
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + separator.length)]
}

// What `du` counts: blocks, not lengths.
function sizeOf(path) {
  let info
  try {
    info = statSync(path)
  } catch {
    return 0
  }
  if (!info.isDirectory()) return info.blocks * 512
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0)
}
