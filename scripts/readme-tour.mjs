// Runs the five-minute tour of README.md as a reader would: the packed npm package in an empty project, the blocks
// marked ```js tour one after the other, each one's output compared with the ```text block behind it. Also checks that
// every `make` target the README tells the reader to type exists. Ends with "N passed, N failed".
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { installPacked } from './lib/packed.mjs'
import { makeTargets, outputsOf, tourModule, tourSteps } from './lib/readme.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const readme = readFileSync(join(root, 'README.md'), 'utf8')
const results = []
const report = (name, problem) => {
  results.push(!problem)
  console.log(problem ? `FAILED ${name}: ${problem}` : `ok ${name}`)
}

const targets = new Set(
  [...readFileSync(join(root, 'Makefile'), 'utf8').matchAll(/^([a-z-]+):/gm)].map(found => found[1]),
)
for (const target of makeTargets(readme))
  report(`make ${target}`, targets.has(target) ? undefined : 'the Makefile has no such target')

const steps = tourSteps(readme)
if (steps.length === 0) report('the tour', 'README.md has no block marked ```js tour')
else {
  const project = mkdtempSync(join(tmpdir(), 'kalamdb-tour-'))
  try {
    mkdirSync(join(project, 'node_modules'))
    writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'tour', private: true, type: 'module' }))
    installPacked([project])
    const mark = `--- end of step ${process.pid}.`
    writeFileSync(join(project, 'tour.js'), tourModule(steps, mark))
    const run = spawnSync(process.execPath, ['tour.js'], { cwd: project, encoding: 'utf8', timeout: 120_000 })
    const outputs = outputsOf(run.stdout, steps.length, mark)
    steps.forEach((step, at) => {
      const printed = outputs[at]
      if (printed === undefined) report(`README.md:${step.line}`, 'did not come to its end')
      else if (step.expected !== undefined && printed !== step.expected) {
        report(`README.md:${step.line}`, `printed\n${printed}\nwhere README.md shows\n${step.expected}`)
      } else report(`README.md:${step.line}`)
    })
    if (run.stderr) console.log(run.stderr)
    report('the tour ends by itself', run.status === 0 ? undefined : `exit ${run.status ?? run.signal}`)
  } finally {
    rmSync(project, { recursive: true, force: true })
  }
}

const passed = results.filter(Boolean).length
console.log(`${passed} passed, ${results.length - passed} failed`)
process.exitCode = passed === results.length ? 0 : 1
