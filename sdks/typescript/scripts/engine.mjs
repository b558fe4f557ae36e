// Copies the engine from pkg/ to where compiled SDK code expects it.

import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { wrapGlue } from './glue.mjs'

/** Folder of the npm package. */
export const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const pkg = join(root, '../../pkg')

/** Fails when the engine has not been built. */
export function requireEngine() {
  const missing = ['kalamdb.js', 'kalamdb_bg.wasm'].filter(name => !existsSync(join(pkg, name)))
  if (missing.length > 0) {
    throw new Error(`the engine is missing (${missing.join(', ')} in ${pkg}): run make build in the repository's root`)
  }
}

/** Writes the engine's files into a folder and returns what it wrote, as lines to print. */
export function copyEngine(target) {
  requireEngine()
  mkdirSync(target, { recursive: true })
  writeFileSync(join(target, 'glue.js'), wrapGlue(readFileSync(join(pkg, 'kalamdb.js'), 'utf8')))
  // JavaScript that crates bring along (inline_js); the bindings import it by relative paths.
  if (existsSync(join(pkg, 'snippets'))) cpSync(join(pkg, 'snippets'), join(target, 'snippets'), { recursive: true })
  copyFileSync(join(pkg, 'kalamdb_bg.wasm'), join(target, 'kalamdb_bg.wasm'))
  return [
    ['kalamdb.js (as a factory)', 'glue.js'],
    ['kalamdb_bg.wasm', 'kalamdb_bg.wasm'],
  ].map(([from, to]) => {
    const file = join(target, to)
    return `  pkg/${from} -> ${relative(root, file)} (${(statSync(file).size / 1e6).toFixed(2)} MB)`
  })
}
