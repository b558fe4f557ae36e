// KPR1 both ways: what goes in comes out, for every kind, and what cannot go in exactly is refused.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { KalamError } from '../src/errors.js'
import { decodeRows } from '../src/packed/decode.js'
import { encodeRows } from '../src/packed/encode.js'
import { Timestamp } from '../src/timestamp.js'
import type { ColumnInfo, Int64Mode } from '../src/types.js'
import { code } from './code.js'

const column = (name: string, type: string): ColumnInfo => ({ name, type, nullable: true })

/** Encodes objects and decodes the buffer with the columns that it names. */
function roundTrip(columns: ColumnInfo[], rows: object[], int64: Int64Mode = 'bigint', shift = 0): unknown[] {
  const packed = encodeRows('t', columns, rows)
  const used = packed.columns.map(name => columns.find(c => c.name === name) as ColumnInfo)
  const place = new Uint8Array(packed.buffer.length + shift)
  place.set(packed.buffer, shift)
  return decodeRows([place.subarray(shift)], used, int64)
}

const ALL: ColumnInfo[] = [
  column('b', 'BOOLEAN'),
  column('i', 'INT'),
  column('s', 'SMALLINT'),
  column('l', 'BIGINT'),
  column('d', 'DOUBLE'),
  column('f', 'FLOAT'),
  column('dec', 'DECIMAL(20,4)'),
  column('t', 'TEXT'),
  column('ts', 'TIMESTAMP'),
  column('dt', 'DATETIME'),
  column('date', 'DATE'),
  column('time', 'TIME'),
  column('j', 'JSON'),
  column('bytes', 'BYTES'),
  column('e', 'EMBEDDING(3)'),
  column('u', 'UUID'),
]

const FULL = {
  b: true,
  i: -2_147_483_648,
  s: 32_767,
  l: 9_223_372_036_854_775_807n,
  d: Math.PI,
  f: 0.5,
  dec: '-12345678901234.5678',
  t: 'naïve 日本 🦀',
  ts: new Date('1969-12-31T23:59:59.999Z'),
  dt: new Date('2024-02-29T12:00:00.001Z'),
  date: new Date('1900-03-01'),
  time: '23:59:59.999999',
  j: { a: [1, null, 'ü'], b: { c: false } },
  bytes: new Uint8Array([0, 255, 1]),
  e: new Float32Array([1, -0.5, 3.25]),
  u: '550e8400-e29b-41d4-a716-446655440000',
}
const EMPTY = Object.fromEntries(ALL.map(c => [c.name, null]))

describe('round trips', () => {
  it('keeps every kind, with and without NULLs', () => {
    assert.deepEqual(roundTrip(ALL, [FULL]), [FULL])
    assert.deepEqual(roundTrip(ALL, [FULL, EMPTY, FULL]), [FULL, EMPTY, FULL])
    const zeros = { ...FULL, b: false, i: 0, s: -1, l: 0n, d: -0, t: '', j: null, bytes: new Uint8Array() }
    assert.deepEqual(roundTrip(ALL, [zeros, FULL]), [zeros, FULL])
  })

  it('reads buffers at any offset', () => {
    for (let shift = 1; shift < 9; shift++)
      assert.deepEqual(roundTrip(ALL, [FULL, EMPTY], 'bigint', shift), [FULL, EMPTY])
  })

  it('keeps doubles bit by bit', () => {
    const rows = [NaN, Infinity, -Infinity, -0, Number.MIN_VALUE, 2 ** 53 + 2].map(d => ({ d }))
    assert.deepEqual(roundTrip(ALL, rows), rows)
  })

  it('keeps text of every width, and does not take a byte order mark away', () => {
    const texts = ['', 'a', 'é', '€', '🦀', '\uFEFFbom', 'z'.repeat(300), '🦀é€a'.repeat(50), '\0', '']
    const rows = texts.map(t => ({ t }))
    assert.deepEqual(roundTrip(ALL, rows), rows)
    const ascii = ['', 'a', 'bc', ''].map(t => ({ t }))
    assert.deepEqual(roundTrip(ALL, ascii), ascii)
  })

  it('replaces half a surrogate pair as every encoder does, also where two halves meet', () => {
    const rows = [{ t: 'a\uD83E' }, { t: '\uDD80b' }, { t: 'é' }]
    assert.deepEqual(roundTrip(ALL, rows), [{ t: 'a\uFFFD' }, { t: '\uFFFDb' }, { t: 'é' }])
  })

  it('keeps timestamps on both sides of the epoch and to the ends of Date', () => {
    const rows = [0, -1, 1, -62_135_596_800_000, 253_402_300_799_999, 8.64e15, -8.64e15].map(ms => ({
      ts: new Date(ms),
    }))
    assert.deepEqual(roundTrip(ALL, rows), rows)
    const days = ['1969-12-31', '0001-01-01', '9999-12-31'].map(text => ({ date: new Date(text) }))
    assert.deepEqual(roundTrip(ALL, days), days)
  })

  it('keeps microseconds, in a Date that knows them', () => {
    const micros = [1n, -1n, 1_767_312_645_123_456n, -62_135_596_799_999_999n, 2n ** 62n, -(2n ** 63n)]
    const rows = micros.map(us => ({ ts: new Timestamp(us) }))
    const back = roundTrip(ALL, rows) as { ts: Timestamp }[]
    assert.deepEqual(
      back.map(row => row.ts.epochMicroseconds),
      micros,
    )
    assert.ok(back.every(row => row.ts instanceof Date))
    assert.equal(back[0]?.ts.getTime(), 0)
    assert.equal(back[1]?.ts.getTime(), -1)
    assert.equal(JSON.stringify(back[2]?.ts), '"2026-01-02T00:10:45.123456Z"')
    // Whole milliseconds are plain dates.
    const [plain] = roundTrip(ALL, [{ ts: new Timestamp(5000n) }]) as { ts: Date }[]
    assert.equal(plain?.ts.constructor, Date)
  })

  it('takes what a setter made of a Timestamp', () => {
    const changed = new Timestamp(1_000_001n)
    changed.setUTCFullYear(2000)
    const [row] = roundTrip(ALL, [{ ts: changed }]) as { ts: Date }[]
    assert.equal(row?.ts.getTime(), changed.getTime())
  })

  it('handles 70 000 rows and several buffers', () => {
    const rows = Array.from({ length: 70_000 }, (_, i) => ({
      l: BigInt(i),
      t: i % 1000 === 0 ? `ä${i}` : `row ${i}`,
      d: i % 3 === 0 ? null : i / 2,
    }))
    const columns = [ALL[3], ALL[4], ALL[7]] as ColumnInfo[]
    const first = encodeRows('t', columns, rows.slice(0, 65_536))
    const second = encodeRows('t', columns, rows.slice(65_536))
    const order = first.columns.map(name => columns.find(c => c.name === name) as ColumnInfo)
    assert.deepEqual(decodeRows([first.buffer, second.buffer], order, 'bigint'), rows)
  })

  it('handles no rows and no columns', () => {
    assert.deepEqual(decodeRows([], ALL, 'bigint'), [])
    assert.deepEqual(roundTrip(ALL, []), [])
    assert.deepEqual(roundTrip(ALL, [{}, { t: undefined }]), [{}, {}])
  })
})

describe('decoding', () => {
  it('gives BIGINT as asked and refuses to round', () => {
    const safe = [{ l: 9_007_199_254_740_991n }, { l: -5n }, { l: null }]
    assert.deepEqual(roundTrip(ALL, safe, 'number'), [{ l: 9_007_199_254_740_991 }, { l: -5 }, { l: null }])
    assert.deepEqual(roundTrip(ALL, [{ l: -(2n ** 63n) }], 'string'), [{ l: '-9223372036854775808' }])
    assert.throws(
      () => roundTrip(ALL, [{ l: 1n }, { l: 9_007_199_254_740_992n }], 'number'),
      code('NUMERIC_VALUE_OUT_OF_RANGE', /column 'l', row 2: 9007199254740992/),
    )
  })

  it('makes plain objects with own keys, whatever the columns are called', () => {
    const columns = ['__proto__', 'constructor', '1', 'with "quotes"', ''].map(name => column(name, 'INT'))
    const row: Record<string, unknown> = {}
    for (const [value, { name }] of columns.entries()) {
      Object.defineProperty(row, name, { value, enumerable: true, writable: true, configurable: true })
    }
    const packed = encodeRows('t', columns, [row])
    const [decoded] = decodeRows([packed.buffer], columns, 'bigint') as [object]
    assert.equal(Object.getPrototypeOf(decoded), Object.prototype)
    assert.deepEqual(new Set(Object.keys(decoded)), new Set(columns.map(c => c.name)))
    assert.equal(Object.getOwnPropertyDescriptor(decoded, '__proto__')?.value, 0)
  })

  it('lets the last of two columns with one name decide, NULL included', () => {
    const packed = encodeRows(
      't',
      [column('a', 'INT'), column('b', 'INT')],
      [
        { a: 1, b: 2 },
        { a: 3, b: null },
      ],
    )
    const same = [column('x', 'INT'), column('x', 'INT')]
    assert.deepEqual(decodeRows([packed.buffer], same, 'bigint'), [{ x: 2 }, { x: null }])
  })

  it('copies bytes and vectors, so that a row does not hold the result', () => {
    const [row] = roundTrip(ALL, [FULL]) as [{ bytes: Uint8Array; e: Float32Array }]
    assert.equal(row.bytes.buffer.byteLength, 3)
    assert.equal(row.e.buffer.byteLength, 12)
  })

  it('reports a damaged buffer', () => {
    const { buffer } = encodeRows('t', ALL, [FULL])
    const damaged = (change: (words: Uint32Array, bytes: Uint8Array) => Uint8Array | undefined) => () => {
      const bytes = buffer.slice()
      decodeRows([change(new Uint32Array(bytes.buffer), bytes) ?? bytes], ALL, 'bigint')
    }
    const undecodable = code('INTERNAL_ERROR', /does not decode/)
    const set = (word: number, value: number) =>
      damaged(words => {
        words[word] = value
        return undefined
      })
    assert.throws(set(0, 1), undecodable)
    assert.throws(set(1, 3), undecodable)
    assert.throws(set(4, 77), undecodable)
    assert.throws(set(7, 1 << 30), undecodable)
    assert.throws(set(2, 1 << 20), undecodable)
    assert.throws(
      damaged((_, bytes) => bytes.slice(0, 40)),
      undecodable,
    )
    assert.throws(
      damaged(() => new Uint8Array(3)),
      undecodable,
    )
  })
})

describe('encoding', () => {
  it('takes the union of the keys, in the order of the table', () => {
    const columns = [column('a', 'INT'), column('b', 'TEXT'), column('c', 'INT')]
    const packed = encodeRows('t', columns, [{ c: 1 }, { a: 2, b: undefined }, { c: null }])
    assert.deepEqual(packed.columns, ['a', 'c'])
    const used = [columns[0], columns[2]] as ColumnInfo[]
    assert.deepEqual(decodeRows([packed.buffer], used, 'bigint'), [
      { a: null, c: 1 },
      { a: 2, c: null },
      { a: null, c: null },
    ])
  })

  it('names an unknown key, its row and the nearest column', () => {
    const columns = [column('createdat', 'INT')]
    assert.throws(
      () => encodeRows('shop.t', columns, [{}, { createdAt: 1 }]),
      (error: KalamError) =>
        code('COLUMN_NOT_FOUND', /shop\.t: row 2 has key 'createdAt'/)(error) && /'createdat'/.test(error.hint ?? ''),
    )
    assert.throws(
      () => encodeRows('t', columns, [5 as unknown as object]),
      code('DATATYPE_MISMATCH', /row 1 is number 5/),
    )
    assert.throws(
      () => encodeRows('t', columns, [null as unknown as object]),
      code('DATATYPE_MISMATCH', /row 1 is null/),
    )
  })

  it('refuses what does not fit, naming column, row and value', () => {
    const refused: [string, unknown, string, RegExp][] = [
      ['b', 1, 'DATATYPE_MISMATCH', /column 'b', row 2: number 1 for BOOLEAN/],
      ['i', 1.5, 'DATATYPE_MISMATCH', /number 1\.5 for INT, expected an integer/],
      ['i', '1', 'DATATYPE_MISMATCH', /string "1" for INT/],
      ['i', 2 ** 31, 'NUMERIC_VALUE_OUT_OF_RANGE', /2147483648 for INT/],
      ['s', -32_769n, 'NUMERIC_VALUE_OUT_OF_RANGE', /-32769n for SMALLINT/],
      ['l', 2 ** 53, 'DATATYPE_MISMATCH', /expected a bigint/],
      ['l', 2n ** 63n, 'NUMERIC_VALUE_OUT_OF_RANGE', /64-bit/],
      ['l', '1.0', 'DATATYPE_MISMATCH', /string "1\.0"/],
      ['d', '1', 'DATATYPE_MISMATCH', /expected a number/],
      ['dec', true, 'DATATYPE_MISMATCH', /boolean true for DECIMAL\(20,4\)/],
      ['t', 5, 'DATATYPE_MISMATCH', /number 5 for TEXT/],
      ['ts', 5, 'DATATYPE_MISMATCH', /expected a Date/],
      ['ts', new Date(NaN), 'INVALID_DATETIME', /valid Date/],
      ['date', new Date(NaN), 'INVALID_DATETIME', /valid Date/],
      ['time', new Date(), 'DATATYPE_MISMATCH', /Date for TIME/],
      ['j', { n: 1n }, 'DATATYPE_MISMATCH', /JSON/],
      ['j', Promise.resolve(1), 'DATATYPE_MISMATCH', /Promise for JSON, expected a JSON value/],
      ['j', new Map([[1, 2]]), 'DATATYPE_MISMATCH', /Map for JSON/],
      ['j', () => 1, 'DATATYPE_MISMATCH', /function/],
      ['bytes', 'abc', 'DATATYPE_MISMATCH', /Uint8Array/],
      ['e', [1, 2], 'WRONG_DIMENSION', /3 numbers, found 2/],
      ['e', [1, 2, 'x'], 'DATATYPE_MISMATCH', /position 3/],
      ['u', 'not-a-uuid', 'INVALID_TEXT_REPRESENTATION', /UUID/],
      ['u', 5, 'DATATYPE_MISMATCH', /UUID/],
    ]
    for (const [name, value, expected, pattern] of refused) {
      assert.throws(
        () => encodeRows('t', ALL, [FULL, { [name]: value }]),
        code(expected, pattern),
        `${name} ${String(value)}`,
      )
    }
  })

  it('takes the other forms of a value', () => {
    const forms: [string, unknown, unknown][] = [
      ['i', 5n, 5],
      ['l', 5, 5n],
      ['l', '-9223372036854775808', -(2n ** 63n)],
      ['d', 5n, 5],
      ['dec', 1.5, '1.5'],
      ['dec', 10n ** 20n, '100000000000000000000'],
      ['bytes', new Uint8Array([1, 2]).buffer, new Uint8Array([1, 2])],
      ['bytes', new Uint16Array([513]), new Uint8Array([1, 2])],
      ['e', [1, 2, 3], new Float32Array([1, 2, 3])],
      ['u', '550E8400E29B41D4A716446655440000', FULL.u],
      ['j', 'text', 'text'],
      ['j', 0, 0],
    ]
    for (const [name, value, expected] of forms) {
      assert.deepEqual(roundTrip(ALL, [{ [name]: value }]), [{ [name]: expected }], name)
    }
  })

  it('sends dates as text as soon as one of them is text, so that microseconds survive', () => {
    const packed = encodeRows(
      't',
      [column('ts', 'TIMESTAMP')],
      [{ ts: new Date(5) }, { ts: '2024-01-01 00:00:00.000001' }],
    )
    assert.deepEqual(decodeRows([packed.buffer], [column('ts', 'TEXT')], 'bigint'), [
      { ts: '1970-01-01T00:00:00.005Z' },
      { ts: '2024-01-01 00:00:00.000001' },
    ])
  })
})
