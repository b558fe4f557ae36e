// KalamDB beside its peers in headless Chromium, from the built package: `make bench`, or here `npm run bench`.
// It prints tables with ratios and asserts none. `node run.mjs statements` runs one section alone.

import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { launch, newProfile, removeProfile } from '../../scripts/lib/chromium.mjs'
import { serve } from '../../scripts/lib/serve.mjs'
import { formatBytes, formatTable, heading } from '../../scripts/lib/terminal.mjs'

const server = await serve(fileURLToPath(new URL('dist', import.meta.url)))
const sections = { statements, storage, size }
const chosen = process.argv.slice(2)

/** A page on a profile of its own; `work` gets it, and a way to open the browser again. */
async function inBrowser(work) {
  const profile = await newProfile()
  let chromium
  const open = async () => {
    await chromium?.close()
    chromium = await launch({ profile })
    const page = await chromium.context.newPage()
    page.on('pageerror', error => console.error(`page: ${error.message}`))
    await page.goto(server.url)
    await page.waitForFunction(() => window.bench)
    return page
  }
  try {
    return await work(await open(), open, profile)
  } finally {
    await chromium?.kill()
    await removeProfile(profile)
  }
}

/** A table whose first line is its head. */
const table = ([head, ...lines]) =>
  formatTable(
    head.map(name => ({ name, type: 'TEXT' })),
    lines,
  )
const ms = value => `${value < 10 ? value.toFixed(3) : value.toFixed(0)} ms`
const times = value => `${value.toFixed(2)}×`

async function statements() {
  heading('Statements: 20 000 rows, milliseconds each (× KalamDB)')
  const result = await inBrowser(page => page.evaluate(() => window.bench.statements()))
  const names = [...new Set(Object.values(result).flatMap(Object.keys))]
  const lines = Object.entries(result).map(([what, by]) => [
    what,
    ...names.map(name => {
      if (by[name] === undefined) return ''
      return name === 'kalamdb' ? ms(by[name]) : `${ms(by[name])} (${times(by[name] / by.kalamdb)})`
    }),
  ])
  console.log(table([['', ...names], ...lines]))
}

async function storage() {
  heading('Storage, as ratios in one run')
  const writes = await inBrowser(page => page.evaluate(() => window.bench.writes()))
  const { bulk, together, one } = writes
  const lines = [
    ['measured', 'KalamDB', 'against', 'ratio', 'target'],
    [
      '20 000 rows in one insert',
      ms(bulk.kalamdb),
      `${ms(bulk.indexeddb)} as IndexedDB records`,
      times(bulk.indexeddb / bulk.kalamdb),
      '≥ 30×',
    ],
    ['', '', `${ms(bulk.sqlite)} SQLite on OPFS`, times(bulk.sqlite / bulk.kalamdb), '≥ 1×'],
    [
      '1000 inserts awaited together',
      ms(together.kalamdb),
      `${ms(together.indexeddb)} as awaited IndexedDB puts`,
      times(together.indexeddb / together.kalamdb),
      '≥ 20×',
    ],
    [
      'one insert, awaited',
      ms(one.kalamdb),
      `${ms(one.indexeddb)} an IndexedDB put`,
      times(one.kalamdb / one.indexeddb),
      '≤ 1.5×',
    ],
  ]
  await inBrowser(async (page, open) => {
    const sizes = [
      ['ten-thousand', 10_000],
      ['one-million', 1_000_000],
    ]
    for (const size of sizes) await page.evaluate(([name, count]) => window.bench.prepare(name, count), size)
    const fresh = await open()
    const opened = await fresh.evaluate(names => window.bench.opening(names), sizes)
    const [few, many] = [opened['ten-thousand'], opened['one-million']]
    lines.push([
      'opening 1 000 000 rows, and a row by key',
      ms(many),
      `${ms(few)} with 10 000 rows`,
      times(many / few),
      '≤ 1.5×',
    ])
    const { first, second, wasm } = await (await open()).evaluate(() => window.bench.scan('one-million'))
    lines.push(['scan of 1 000 000 rows, first', ms(first), `${ms(second)} again`, times(first / second), ''])
    lines.push(['wasm memory after both scans', formatBytes(wasm), '', '', ''])
  })
  console.log(table(lines))
}

async function size() {
  heading('Bytes on disk: 200 000 rows')
  const count = 200_000
  const stored = work =>
    inBrowser(async (page, open, profile) => {
      await page.evaluate(work, count)
      // Closed and opened once, so that LevelDB has written its logs out.
      await (await open()).evaluate(() => indexedDB.databases())
      // A journal lies in the origin's private file system.
      return ['IndexedDB', 'File System'].reduce((sum, folder) => sum + bytesOf(join(profile, 'Default', folder)), 0)
    })
  const ours = await stored(n => window.bench.prepare('size', n))
  const raw = await stored(n => window.bench.fillRaw('size', n))
  const csv = await inBrowser(page => page.evaluate(n => window.bench.csvBytes(n), count))
  console.log(
    table([
      ['200 000 rows', 'bytes', 'ratio'],
      ['KalamDB', formatBytes(ours), ''],
      ['as CSV', formatBytes(csv), times(csv / ours)],
      ['as IndexedDB records', formatBytes(raw), times(raw / ours)],
    ]),
  )
}

function bytesOf(folder) {
  let bytes = 0
  if (!existsSync(folder)) return bytes
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) bytes += statSync(join(entry.parentPath ?? entry.path, entry.name)).size
  }
  return bytes
}

let failed = false
for (const [name, section] of Object.entries(sections)) {
  if (chosen.length > 0 && !chosen.includes(name)) continue
  try {
    await section()
  } catch (error) {
    failed = true
    console.error(`bench: ${name}: ${error?.stack ?? error}`)
  }
}
await server.close()
process.exit(failed ? 1 : 0)
