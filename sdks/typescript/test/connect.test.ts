// What connect refuses before an engine is even looked for.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { connect, deleteDatabase, KalamError } from '../src/index.js'

const code = (expected: string) => (error: unknown) => {
  assert.ok(error instanceof KalamError, String(error))
  assert.equal(error.code, expected, error.message)
  return true
}

describe('connecting in Node', () => {
  it('has memory only, and says so', async () => {
    await assert.rejects(connect({ name: 'x', storage: 'indexeddb' }), code('FEATURE_NOT_SUPPORTED'))
    await assert.rejects(connect({ name: 'x', storage: 'opfs' as never }), code('FEATURE_NOT_SUPPORTED'))
    await assert.rejects(connect({ name: 'x', worker: true }), code('FEATURE_NOT_SUPPORTED'))
    await deleteDatabase('x')
  })

  it('refuses options that it does not understand', async () => {
    await assert.rejects(connect({ name: 'x', file: './data' } as never), code('INVALID_OPTION'))
    await assert.rejects(connect({ name: 'x', path: '' }), code('INVALID_OPTION'))
    await assert.rejects(connect({ name: 'x', path: './data', storage: 'memory' }), code('INVALID_OPTION'))
    await assert.rejects(connect({ name: 'x', path: './data', worker: true }), code('FEATURE_NOT_SUPPORTED'))
    await assert.rejects(connect({ name: 'x', restore: 'text' as never }), code('INVALID_OPTION'))
    await assert.rejects(connect({}), code('INVALID_NAME'))
    await assert.rejects(connect({ name: 'x', storage: 'disk' as never }), code('INVALID_OPTION'))
    await assert.rejects(connect({ name: 'x', int64: 'float' as never }), code('INVALID_OPTION'))
    await assert.rejects(connect({ name: 'x', durability: 'none' as never }), code('INVALID_OPTION'))
    await assert.rejects(connect({ name: 'x', wasm: 'nowhere' }), code('INVALID_OPTION'))
    await assert.rejects(connect(''), code('INVALID_NAME'))
    await assert.rejects(connect(undefined as never), code('INVALID_OPTION'))
    await assert.rejects(deleteDatabase(''), code('INVALID_NAME'))
  })
})
