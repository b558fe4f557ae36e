// Errors, parameters, the sql tag, format detection, limits.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { KalamError } from '../src/errors.js'
import { detectFormat } from '../src/import.js'
import { Limit } from '../src/limit.js'
import { checkParams, isReadOnly, templateToSql } from '../src/params.js'
import { code } from './code.js'

describe('KalamError', () => {
  const plain = {
    name: 'KalamError',
    code: 'TABLE_NOT_FOUND',
    sqlstate: '42P01',
    message: "table 'x' does not exist",
    hint: 'Did you mean y?',
    position: { line: 2, column: 7 },
    retryable: false,
  }

  it('survives structured cloning in its plain form and comes back whole', () => {
    const revived = KalamError.from(structuredClone(new KalamError(plain).toJSON()))
    assert.ok(revived instanceof KalamError && revived instanceof Error)
    assert.equal(revived.name, 'KalamError')
    assert.deepEqual(revived.toJSON(), plain)
    assert.match(String(revived), /^KalamError: table 'x'/)
    assert.deepEqual(JSON.parse(JSON.stringify(revived)), plain)
  })

  it('knows the SQLSTATE of its own codes and wraps anything else', () => {
    assert.equal(new KalamError({ code: 'DATABASE_LOCKED', message: '' }).sqlstate, '55006')
    assert.equal(new KalamError({ code: 'DATABASE_LOCKED', message: '' }).retryable, true)
    const cause = new TypeError('x is not a function')
    const wrapped = KalamError.from(cause)
    assert.equal(wrapped.code, 'INTERNAL_ERROR')
    assert.equal(wrapped.cause, cause)
    assert.match(wrapped.message, /TypeError: x is not/)
    assert.equal(KalamError.from('boom').message, 'boom')
    assert.equal(KalamError.from(wrapped), wrapped)
  })
})

describe('parameters', () => {
  it('lets every value through as it is', () => {
    const params = [1, 1n, 's', true, null, new Date(0), new Uint8Array(1), new Float32Array(1), { a: 1 }, [1, 2]]
    const checked = checkParams(params) as unknown[]
    assert.ok(checked.every((value, i) => value === params[i]) && checked.length === params.length)
    const named = { a: 1, b: null }
    assert.deepEqual(checkParams(named), named)
    // They leave a little later, and must not be seen to change until then.
    params[0] = 2
    named.a = 2
    assert.equal(checked[0], 1)
    assert.equal(checkParams(undefined), undefined)
  })

  it('names what cannot be a parameter', () => {
    assert.throws(() => checkParams([1, undefined]), code('PARAMETER_TYPE', /\$2 is undefined/))
    assert.throws(() => checkParams(new Array(1)), code('PARAMETER_TYPE', /\$1 is undefined/))
    assert.throws(() => checkParams({ from: () => 1 }), code('PARAMETER_TYPE', /\$from is function/))
    assert.throws(() => checkParams([Symbol('x')]), code('PARAMETER_TYPE', /\$1 is symbol/))
    assert.throws(() => checkParams([new Date(NaN)]), code('PARAMETER_TYPE', /invalid Date/))
    for (const opaque of [Promise.resolve(1), new Map([[1, 2]]), new Set([1]), /x/, new Blob(['x'])]) {
      assert.throws(() => checkParams([opaque]), code('PARAMETER_TYPE', /\$1 is (Promise|Map|Set|RegExp|Blob)/))
    }
    assert.throws(() => checkParams([Promise.resolve(1)]), code('PARAMETER_TYPE', { hint: 'Await it first.' }))
    for (const numbers of [Float64Array.of(1), BigInt64Array.of(1n), new DataView(new ArrayBuffer(1))]) {
      assert.throws(() => checkParams([numbers]), code('PARAMETER_TYPE', /expected a value/))
    }
    const values = [
      {},
      [],
      { a: 1 },
      new (class {
        a = 1
      })(),
      new Uint8Array(),
      new Float32Array(2),
      new ArrayBuffer(1),
    ]
    assert.deepEqual(checkParams(values), values)
    for (const wrong of [5, 'x', new Date(), new Map(), new Uint8Array(2)]) {
      assert.throws(() => checkParams(wrong), code('PARAMETER_TYPE', /expected an array for \$1/))
    }
  })

  it('turns a template into placeholders, never text', () => {
    const tag = (strings: TemplateStringsArray, ...values: unknown[]): string => templateToSql(strings, values)
    assert.equal(tag`SELECT 1`, 'SELECT 1')
    assert.equal(tag`a = ${"'; DROP TABLE t; --"} AND b = ${2}`, 'a = $1 AND b = $2')
    assert.equal(tag`${1}${2}`, '$1$2')
    assert.throws(() => templateToSql('SELECT 1' as never, []), code('INVALID_OPTION', /template tag/))
  })

  it('tells statements that change nothing, and doubts the rest', () => {
    for (const sql of [
      'SELECT 1',
      ' -- hm\n/* a; b */ select 1;',
      'explain delete from t',
      'SHOW TABLES ;  ',
      'values (1)',
    ]) {
      assert.equal(isReadOnly(sql), true, sql)
    }
    for (const sql of [
      'INSERT INTO t VALUES (1)',
      'SELECT 1; DELETE FROM t',
      'WITH x AS (SELECT 1) SELECT 1',
      '',
      'selection',
    ]) {
      assert.equal(isReadOnly(sql), false, sql)
    }
  })
})

describe('format detection', () => {
  const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

  it('goes by magic, extension, content type and first character', () => {
    const known: [string, string | undefined, string | undefined, string][] = [
      ['PAR1...', 'x.csv', 'text/csv', 'parquet'],
      ['ARROW1\0\0', undefined, undefined, 'arrow'],
      ['a,b\n1,2', 'data/X.CSV', undefined, 'csv'],
      ['a\tb', 'x.tsv', undefined, 'csv'],
      ['a,b', undefined, 'text/csv; charset=utf-8', 'csv'],
      ['a,b', undefined, 'application/vnd.apache.parquet', 'parquet'],
      ['{"a":1}\n', 'x.jsonl', undefined, 'ndjson'],
      ['  [{"a":1}]', undefined, undefined, 'json'],
      ['\n {"a":1}', undefined, undefined, 'ndjson'],
      ['{"a":1}\n{"a":2}', 'x.json', 'application/json', 'ndjson'],
      ['[]', 'x.json', 'text/csv', 'json'],
      ['', 'x.json', undefined, 'json'],
      ['', 'x.csv', undefined, 'csv'],
      ['{"a":1}', undefined, 'application/x-ndjson', 'ndjson'],
    ]
    for (const [head, name, type, format] of known) assert.equal(detectFormat(bytes(head), name, type), format, head)
    assert.equal(detectFormat(new Uint8Array([0xff, 0xff, 0xff, 0xff, 16, 0])), 'arrow')
    assert.equal(detectFormat(new Uint8Array([0xef, 0xbb, 0xbf, 0x5b])), 'json')
  })

  it('asks for the format when nothing tells', () => {
    assert.throws(() => detectFormat(bytes('a,b\n1,2')), code('INVALID_OPTION', /cannot tell the format of the source/))
    assert.throws(
      () => detectFormat(bytes(''), 'x.txt', 'text/plain'),
      code('INVALID_OPTION', /x\.txt \(content type text/),
    )
    assert.throws(
      () => detectFormat(new Uint8Array([0x1f, 0x8b, 8])),
      (error: KalamError) => /DecompressionStream/.test(error.hint ?? ''),
    )
  })
})

describe('limits', () => {
  it('turns a signal and a time limit into errors', async () => {
    const controller = new AbortController()
    const reason = new Error('changed my mind')
    const limit = new Limit(controller.signal)
    const waiting = limit.race(new Promise(() => {}))
    controller.abort(reason)
    await assert.rejects(waiting, (error: KalamError) => code('CANCELLED')(error) && error.cause === reason)
    assert.throws(() => limit.check(), code('CANCELLED'))
    assert.throws(() => new Limit(AbortSignal.abort()).check(), code('CANCELLED'))
    await assert.rejects(new Limit(undefined, 1).race(new Promise(() => {})), code('TIMEOUT', /1 ms/))
    for (const wrong of [0, -1, NaN, '5' as unknown as number]) {
      assert.throws(() => new Limit(undefined, wrong), code('INVALID_OPTION', /timeoutMs/))
    }
  })

  it('does nothing after it was disposed', () => {
    const controller = new AbortController()
    const limit = new Limit(controller.signal, 2 ** 40)
    limit.onStop(() => assert.fail('called'))
    limit.dispose()
    controller.abort()
    limit.check()
  })
})
