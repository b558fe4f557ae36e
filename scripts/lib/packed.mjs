// Puts the *packed* npm package into the node_modules of the projects that use it: `node scripts/lib/packed.mjs www`.
//
// Invariant: what ends up there is exactly what `npm publish` would ship (npm pack decides which files those are),
// never a link into the source tree, so a file missing from the package's `files` breaks here and not at a user.
// The projects do not name kalamdb among their dependencies: their lock files stay valid whatever the tarball's
// checksum, and `npm ci` keeps working. The price is that `npm ci` removes the package; their `build` scripts
// call this again.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const sdk = join(root, 'sdks/typescript')

/** Packs the SDK (or takes $KALAMDB_TARBALL) and unpacks it as node_modules/kalamdb of each project folder. */
export function installPacked(projects) {
  const scratch = mkdtempSync(join(tmpdir(), 'kalamdb-pack-'))
  try {
    const tarball = process.env.KALAMDB_TARBALL ? resolve(process.env.KALAMDB_TARBALL) : pack(scratch)
    for (const project of projects) {
      const modules = join(resolve(root, project), 'node_modules')
      mkdirSync(modules, { recursive: true })
      // Unpacked beside its place first: a broken tarball leaves the old package as it was.
      const fresh = mkdtempSync(join(modules, '.kalamdb-'))
      execFileSync('tar', ['-xzf', tarball, '-C', fresh, '--strip-components=1'])
      const manifest = JSON.parse(readFileSync(join(fresh, 'package.json'), 'utf8'))
      if (Object.keys(manifest.dependencies ?? {}).length > 0) {
        throw new Error('kalamdb has run-time dependencies now: they need installing too')
      }
      rmSync(join(modules, 'kalamdb'), { recursive: true, force: true })
      renameSync(fresh, join(modules, 'kalamdb'))
      // Vite's development server caches what it has seen of the old package.
      rmSync(join(modules, '.vite'), { recursive: true, force: true })
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

function pack(into) {
  if (!existsSync(join(sdk, 'dist'))) {
    throw new Error('sdks/typescript is not built: run `make build` (or `npm run build` in sdks/typescript) first')
  }
  execFileSync('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', into], {
    cwd: sdk,
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const name = readdirSync(into).find(file => file.endsWith('.tgz'))
  if (!name) throw new Error('npm pack wrote no tarball')
  return join(into, name)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const projects = process.argv.slice(2)
  if (projects.length === 0) {
    console.error('usage: node scripts/lib/packed.mjs <project folder>…')
    process.exit(2)
  }
  try {
    installPacked(projects)
  } catch (error) {
    console.error(`packed: ${error.message}`)
    process.exit(1)
  }
}
