// What connect refuses before an engine is even looked for.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { connect, deleteDatabase } from '../src/index.js'
import { deviceBudget, memoryLimits } from '../src/memory.js'
import { code } from './code.js'

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
    await assert.rejects(connect({ name: 'half \ud83d', path: './data' }), code('INVALID_NAME', /surrogate/))
    await assert.rejects(connect(undefined as never), code('INVALID_OPTION'))
    await assert.rejects(deleteDatabase(''), code('INVALID_NAME'))
    await assert.rejects(deleteDatabase('x', { file: './data' } as never), code('INVALID_OPTION', /'file'/))
    await assert.rejects(connect({ name: 'x', onProgress: 5 as never }), code('INVALID_OPTION', /onProgress/))
    await assert.rejects(connect({ name: 'x', signal: {} as never }), code('INVALID_OPTION', /signal/))
  })
})

describe('the memory budget', () => {
  it('is shared out, and comes from the device', () => {
    const MB = 1 << 20
    assert.deepEqual(memoryLimits({ memoryBudget: 100 * MB }), {
      memoryLimit: 70 * MB,
      hotLimit: 20 * MB,
      segmentCache: 10 * MB,
    })
    assert.equal(memoryLimits({ memoryBudget: 100 * MB, memoryLimit: 5 }).memoryLimit, 5)
    const device = (gigabytes: unknown, work: () => void): void => {
      const before = Object.getOwnPropertyDescriptor(globalThis, 'navigator')
      Object.defineProperty(globalThis, 'navigator', { value: { deviceMemory: gigabytes }, configurable: true })
      try {
        work()
      } finally {
        if (before) Object.defineProperty(globalThis, 'navigator', before)
        else Reflect.deleteProperty(globalThis, 'navigator')
      }
    }
    device(8, () => assert.equal(deviceBudget(), 1024 * MB))
    device(2, () => assert.equal(deviceBudget(), 256 * MB))
    device(0.25, () => assert.equal(deviceBudget(), 160 * MB))
    device(undefined, () => assert.equal(deviceBudget(), 640 * MB))
  })

  it('must be a number of bytes', async () => {
    for (const memoryBudget of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, '1GB' as never]) {
      await assert.rejects(connect({ name: 'x', storage: 'memory', memoryBudget }), code('INVALID_OPTION'))
    }
  })
})
