import assert from 'node:assert/strict'
import { it } from 'node:test'
import { fencedBlocks, makeTargets, outputsOf, tourModule, tourSteps } from '../lib/readme.mjs'

const markdown = [
  '# Title',
  '```sh',
  'git clone x && cd x',
  'make demo   # everything',
  '$ make test',
  '```',
  'Type `make nothing`.',
  '```js tour',
  'const a = 1',
  'console.log(a)',
  '```',
  'It prints',
  '```text',
  '1',
  '```',
  '```js',
  'not run',
  '```',
  '~~~js tour',
  'console.log(a + 1)',
  '~~~',
].join('\n')

it('finds the steps, their lines and what they must print', () => {
  assert.deepEqual(tourSteps(markdown), [
    { code: 'const a = 1\nconsole.log(a)', line: 9, expected: '1' },
    { code: 'console.log(a + 1)', line: 20, expected: undefined },
  ])
})

it('finds the make targets of shell blocks only', () => assert.deepEqual(makeTargets(markdown), ['demo', 'test']))

it('refuses a block that is never closed', () =>
  assert.throws(() => fencedBlocks('a\n```js\nb'), /line 2 is never closed/))

it('splits the output by step, and a step that did not finish has none', () => {
  const module = tourModule(tourSteps(markdown), '@@')
  assert.match(module, /console.log\(a\)\nconsole.log\("@@0"\)/)
  assert.deepEqual(outputsOf('1\n@@0\n2\n@@1\n', 2, '@@'), ['1', '2'])
  assert.deepEqual(outputsOf('1\n@@0\nboom', 2, '@@'), ['1', undefined])
})
