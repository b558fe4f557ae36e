import assert from 'node:assert/strict'
import { it } from 'node:test'
import { countTests } from '../lib/count-tests.mjs'

it('sums cargo, node in both reporters, and our own runners, colours or not', () => {
  const log = [
    'test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s',
    '\u001b[32mtest result: FAILED. 3 passed; 2 failed; 0 ignored\u001b[0m',
    '# tests 5',
    '# pass 4',
    '# fail 1',
    'ℹ pass 7',
    'ℹ fail 0',
    '# cancelled 1',
    'browser: 10 passed, 0 failed',
    '2 passed, 1 failed, 3 skipped',
  ].join('\n')
  assert.deepEqual(countTests(log), { passed: 38, failed: 5 })
})

it('counts nothing in lines that merely speak of tests', () => {
  assert.deepEqual(countTests('all 3 passed, 0 failed today\n  # pass 4\nran 12 passed tests'), {
    passed: 0,
    failed: 0,
  })
})
