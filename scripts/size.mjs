// Prints raw, gzip and brotli sizes of the wasm and the JS in pkg/ and sdks/typescript/dist.
//   --fast     brotli quality 5, for the daily build (quality 11 takes minutes on its 60 MB)
//   --enforce  exit 1 when something is above its ceiling in size-budget.json; only a release build is held to it
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { bytes, measure, table, violations } from './lib/sizes.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const enforce = process.argv.includes('--enforce')
const quality = process.argv.includes('--fast') ? 5 : 11
const cache = process.env.KALAMDB_CACHE ?? join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'kalamdb')

const filesUnder = dir =>
  existsSync(dir)
    ? readdirSync(dir, { recursive: true, withFileTypes: true })
        .filter(entry => entry.isFile() && entry.name.endsWith('.js'))
        .map(entry => join(entry.parentPath, entry.name))
        .sort()
    : []

// The SDK ships many small modules that a bundler joins: their sum is what a page loads, the glue of pkg/ included.
const parts = {
  wasm: [join(root, 'pkg/kalamdb_bg.wasm')],
  glue: [join(root, 'pkg/kalamdb.js')],
  sdk: filesUnder(join(root, 'sdks/typescript/dist')),
}
const labels = {
  wasm: 'pkg/kalamdb_bg.wasm',
  glue: 'pkg/kalamdb.js',
  sdk: `sdks/typescript/dist (${parts.sdk.length} JS files)`,
}

const sizes = {}
for (const [part, files] of Object.entries(parts)) {
  if (files.length === 0 || !files.every(existsSync)) continue
  sizes[part] = measure(Buffer.concat(files.map(file => readFileSync(file))), quality, join(cache, 'sizes'))
}
if (!sizes.wasm) {
  console.error('error: there is no pkg/kalamdb_bg.wasm; `make build` writes it')
  process.exit(1)
}

const rows = Object.entries(sizes).map(([part, size]) => [
  labels[part],
  bytes(size.raw),
  bytes(size.gzip),
  bytes(size.brotli),
])
for (const line of table([['', 'raw', 'gzip -9', `brotli -${quality}`], ...rows])) console.log(line)

if (enforce) {
  const { ceilings } = JSON.parse(readFileSync(join(root, 'size-budget.json'), 'utf8'))
  const over = violations(ceilings, sizes)
  for (const text of over) console.error(`error: ${text}`)
  if (over.length > 0) {
    console.error(
      '`make sizes` shows which crates the code comes from. Raising a ceiling in size-budget.json needs a reason in the commit.',
    )
    process.exit(1)
  }
  console.log('within size-budget.json')
}
