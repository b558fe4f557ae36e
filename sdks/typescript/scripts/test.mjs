// Compiles sources and tests to .test/ and runs node --test on them. `--without-engine` leaves out the tests that need
// pkg/; without that flag a missing engine is a failure. Other arguments are names of test files to run alone.

import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { copyEngine, root } from './engine.mjs'

const args = process.argv.slice(2)
const withoutEngine = args.includes('--without-engine')
const only = args.filter(arg => !arg.startsWith('--'))
const out = join(root, '.test')

const run = (script, ...rest) =>
  spawnSync(process.execPath, [script, ...rest], { stdio: 'inherit', cwd: root }).status ?? 1

rmSync(out, { recursive: true, force: true })
let status = run(join(root, 'node_modules/typescript/bin/tsc'), '-p', 'tsconfig.test.json')
if (status === 0) {
  if (existsSync(join(root, 'test/data'))) cpSync(join(root, 'test/data'), join(out, 'test/data'), { recursive: true })
  if (!withoutEngine) {
    try {
      copyEngine(join(out, 'src/wasm'))
    } catch (error) {
      // The tests that need it fail by themselves, each on its own; the others still run.
      console.error(`sdk: ${error.message}`)
    }
  }
  const tests = readdirSync(join(out, 'test'))
    .filter(name => name.endsWith('.test.js') && !(withoutEngine && name.startsWith('engine')))
    .filter(name => only.length === 0 || only.some(part => name.startsWith(part)))
  status = run('--test', ...tests.map(name => join(out, 'test', name)))
}
process.exit(status)
