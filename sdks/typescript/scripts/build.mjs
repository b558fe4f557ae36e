// Builds the npm package: TypeScript to dist/, the engine from ../../pkg to dist/wasm/.

import { spawnSync } from 'node:child_process'
import { copyFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { copyEngine, requireEngine, root } from './engine.mjs'

const tsc = (...options) => {
  const args = [join(root, 'node_modules/typescript/bin/tsc'), '-p', root, ...options]
  if (spawnSync(process.execPath, args, { stdio: 'inherit' }).status !== 0) throw new Error('tsc failed')
}

try {
  requireEngine()
  rmSync(join(root, 'dist'), { recursive: true, force: true })
  // Comments are of use in declarations. In modules they were a fifth of what a page without a bundler downloads.
  tsc('--emitDeclarationOnly')
  tsc('--declaration', 'false', '--declarationMap', 'false', '--removeComments')
  console.log('sdk: sources -> dist')
  for (const line of copyEngine(join(root, 'dist/wasm'))) console.log(line)
  copyFileSync(join(root, '../../LICENSE'), join(root, 'LICENSE'))
} catch (error) {
  console.error(`sdk: ${error.message}`)
  process.exit(1)
}
