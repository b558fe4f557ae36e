// What a failing call must fail with.

import assert from 'node:assert/strict'
import { KalamError } from '../src/errors.js'

/** Checks an error's code, and its message against a pattern or other fields against their values. */
export const code =
  (expected: string, more: RegExp | Partial<KalamError> = {}) =>
  (error: unknown): true => {
    assert.ok(error instanceof KalamError, String(error))
    assert.equal(error.code, expected, error.message)
    if (more instanceof RegExp) assert.match(error.message, more)
    else for (const [key, value] of Object.entries(more)) assert.deepEqual(error[key as keyof KalamError], value, key)
    return true
  }
