// Checks the licences, sources, bans and advisories of every crate and npm package that is locked. Offline: it reads
// Cargo.lock through `cargo metadata`, the npm lock files, cargo's index cache (for yanked versions) and
// scripts/advisories.json, which says itself how to refresh it.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { checkDependencies, cratesOf, indexPath, npmPackagesOf, yankedIn } from './lib/deps.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const json = path => JSON.parse(readFileSync(join(root, path), 'utf8'))

const cargo = spawnSync('cargo', ['metadata', '--locked', '--offline', '--format-version', '1'], {
  cwd: root,
  maxBuffer: 256 << 20,
  stdio: ['ignore', 'pipe', 'inherit'],
})
if (cargo.status !== 0) {
  console.error('error: cargo cannot list the dependencies from Cargo.lock alone (its message is above).')
  console.error(
    '  If Cargo.toml changed: cargo update --workspace, and commit Cargo.lock. If crates are missing: make setup.',
  )
  process.exit(1)
}
const metadata = JSON.parse(cargo.stdout)
const crates = cratesOf(metadata)

const registry = join(process.env.CARGO_HOME ?? join(homedir(), '.cargo'), 'registry', 'index')
const caches = existsSync(registry) ? readdirSync(registry).map(name => join(registry, name, '.cache')) : []
let looked = 0
for (const crate of crates) {
  for (const cache of caches) {
    const file = join(cache, indexPath(crate.name))
    if (!existsSync(file)) continue
    looked++
    if (yankedIn(readFileSync(file)).has(crate.version)) crate.withdrawn = 'this version is yanked'
    break
  }
}

const locks = ['', 'sdks/typescript', 'www', 'tests/browser', 'benches/browser']
  .map(dir => join(dir, 'package-lock.json'))
  .filter(path => existsSync(join(root, path)))
const npm = locks.flatMap(path => npmPackagesOf(json(path), path))

const policy = json('scripts/deps-policy.json')
const advisories = json('scripts/advisories.json')
const { findings, accepted, stale } = checkDependencies([...crates, ...npm], policy, advisories.advisories)

console.log(
  `${crates.length} crates (${looked} looked up for yanked versions), ${npm.length} npm packages in ${locks.length} lock files`,
)
console.log(`${advisories.advisories.length} advisories, as of ${advisories.date}: ${advisories.refresh}`)
for (const text of accepted) console.log(`accepted: ${text}`)
for (const text of stale)
  console.log(`note: the acceptance of ${text} meets nothing any more; remove it from scripts/deps-policy.json`)
for (const text of findings) console.error(`error: ${text}`)
if (findings.length > 0) {
  console.error(`${findings.length} findings. What is allowed, and why, stands in scripts/deps-policy.json.`)
  process.exitCode = 1
}
