// Sums the code of a wasm binary by crate and prints the table: node scripts/size-by-crate.mjs [FILE] [--all]
// Without a file it takes pkg/kalamdb_bg.wasm when that has names (KEEP_NAMES=1), else cargo's own release output, which
// always has them.
import { existsSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { bytes, table } from './lib/sizes.mjs'
import { readFunctions, sumByCrate } from './lib/wasm.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const cache = process.env.KALAMDB_CACHE ?? join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'kalamdb')
const target = process.env.CARGO_TARGET_DIR ?? join(cache, 'target')
const given = process.argv.slice(2).find(arg => !arg.startsWith('--'))
const candidates = given
  ? [given]
  : [join(root, 'pkg/kalamdb_bg.wasm'), join(target, 'wasm32-unknown-unknown/release/kalamdb.wasm')]

for (const file of candidates) {
  if (!existsSync(file)) continue
  const module = readFunctions(readFileSync(file))
  if (!module.named) continue
  const code = module.functions.reduce((sum, found) => sum + found.size, 0)
  const crates = sumByCrate(module.functions)
  const shown = process.argv.includes('--all') ? crates : crates.slice(0, 40)
  const rest = crates.slice(shown.length)
  const row = (crate, size, functions) => [
    crate,
    bytes(size),
    `${((100 * size) / code).toFixed(1)} %`,
    String(functions),
  ]
  console.log(relative(process.cwd(), file))
  const rows = shown.map(sum => row(sum.crate, sum.size, sum.functions))
  if (rest.length > 0) {
    const sum = key => rest.reduce((total, crate) => total + crate[key], 0)
    rows.push(row(`(${rest.length} more)`, sum('size'), sum('functions')))
  }
  rows.push(row('all code', code, module.functions.length))
  for (const line of table([['crate', 'code', 'share', 'functions'], ...rows])) console.log(line)
  console.log('\nsections')
  const sections = module.sections.filter(section => section.size >= 1000).sort((a, b) => b.size - a.size)
  for (const line of table(sections.map(section => [section.label, bytes(section.size)]))) console.log(line)
  process.exit(0)
}
console.error(
  `error: no wasm with a name section in ${candidates.join(' or ')}; make one with: make build PROFILE=release KEEP_NAMES=1`,
)
process.exit(1)
