// Sums what test runners say they ran, over the log files given, and prints "N passed, N failed" alone on a line.
// Exits 1 when nothing was counted or something failed: a run without tests is not a pass.
import { readFileSync } from 'node:fs'
import { countTests } from './lib/count-tests.mjs'

const args = process.argv.slice(2)
const stepFailed = args[0] === '--at-least-one-failed'
const counts = countTests((stepFailed ? args.slice(1) : args).map(file => readFileSync(file, 'utf8')).join('\n'))
// A step may fail without a test failing (a compile error, a lint); the sum must not read as a success.
const failed = stepFailed ? Math.max(1, counts.failed) : counts.failed
console.log(`${counts.passed} passed, ${failed} failed`)
process.exitCode = failed > 0 || counts.passed === 0 ? 1 : 0
