// Imports: each format, each kind of source, progress; and files that are broken, which leave nothing.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { csv, flights, flightsParquet, vega } from './lib/files.mjs'
import { browser, failsWith } from './lib/harness.mjs'

const rows = flights(20_000)
const parquet = flightsParquet(rows)
const airports = vega('airports.csv')
const movies = vega('movies.json')
const people = [
  { id: 1, name: 'Ada', note: 'said "hello",\nand left', born: '1815-12-10', score: 1.5, ok: true },
  { id: 2, name: 'Grüße 世界', note: null, born: null, score: null, ok: false },
  { id: 3, name: 'Grace', note: 'x', born: '2024-02-29', score: -0.25, ok: null },
]
const extra = new Map([
  ['/files/flights.parquet', parquet],
  ['/files/airports.csv', airports],
  ['/files/movies.json', movies],
  ['/files/people.json', JSON.stringify(people)],
  ['/files/people.ndjson', people.map(one => JSON.stringify(one)).join('\n')],
  ['/files/people.csv', csv(Object.keys(people[0]), people)],
  ['/files/flights-200k.arrow', vega('flights-200k.arrow')],
])
const b = browser({
  extra,
  ready: page =>
    page.evaluate(async () => {
      window.db = await kalamdb.connect('imports')
      window.look = async () => ({
        tables: (await db.query("SELECT table_name FROM information_schema.tables WHERE table_schema = 'default'"))
          .map(row => row.table_name)
          .sort(),
        records: (await db.status()).records,
      })
    }),
})

const flightsTable =
  'CREATE TABLE flights (date TIMESTAMP, delay BIGINT, distance BIGINT, origin TEXT, destination TEXT)'
const peopleTable =
  'CREATE TABLE people (id INT PRIMARY KEY, name TEXT NOT NULL, note TEXT, born DATE, score DOUBLE, ok BOOLEAN)'
const peopleRows = people.map(one => ({ ...one, born: one.born && new Date(one.born) }))

/** Imports into a fresh table; gives the receipt, the progress, and the table's rows. */
const load = (create, table, file, options, order) =>
  b.page.evaluate(
    async ({ create, table, file, options, order }) => {
      await db.exec(`DROP TABLE IF EXISTS ${table}`)
      if (create) await db.exec(create)
      const progress = []
      const source = new URL(`files/${file}`, location.href)
      const receipt = await db.import(table, source, { ...options, onProgress: one => progress.push(one) })
      const rows = await db.query(`SELECT * FROM ${table} ORDER BY ${order}`)
      return { receipt, progress, rows, columns: rows.columns.map(({ name, type }) => `${name} ${type}`) }
    },
    { create, table, file, options, order },
  )

describe('formats', () => {
  test('parquet', async () => {
    const found = await load(flightsTable, 'flights', 'flights.parquet', { format: 'parquet' }, 'date')
    assert.equal(found.receipt.rowsAffected, rows.length)
    assert.deepEqual(found.rows, rows)
    const last = found.progress.at(-1)
    assert.equal(last.phase, 'done')
    assert.equal(last.rows, rows.length)
    assert.equal(last.bytes, parquet.length)
    assert.ok(found.progress.some(one => one.phase === 'read') && found.progress.some(one => one.phase === 'write'))
  })

  test('parquet, the table made from the file', async () => {
    const found = await load('', 'flights2', 'flights.parquet', { create: true }, 'date')
    assert.deepEqual(found.rows, rows)
    assert.deepEqual(found.columns, [
      'date TIMESTAMP',
      'delay BIGINT',
      'distance BIGINT',
      'origin TEXT',
      'destination TEXT',
    ])
  })

  test('csv: quotes, line breaks in fields, empty fields, letters of all kinds', async () => {
    const found = await load(peopleTable, 'people', 'people.csv', {}, 'id')
    assert.deepEqual(found.rows, peopleRows)
  })

  test('csv: the airports', async () => {
    const found = await load(
      `CREATE TABLE airports (iata TEXT PRIMARY KEY, name TEXT NOT NULL, city TEXT, state TEXT, country TEXT,
        latitude DOUBLE NOT NULL, longitude DOUBLE NOT NULL)`,
      'airports',
      'airports.csv',
      { format: 'csv' },
      'iata',
    )
    assert.equal(found.receipt.rowsAffected, 3376)
    assert.deepEqual(
      found.rows.find(row => row.iata === '35A'),
      {
        iata: '35A',
        name: 'Union County, Troy Shelton',
        city: 'Union',
        state: 'SC',
        country: 'USA',
        latitude: 34.68680111,
        longitude: -81.64121167,
      },
    )
  })

  test('json', async () => {
    const found = await load(peopleTable, 'people', 'people.json', { format: 'json' }, 'id')
    assert.deepEqual(found.rows, peopleRows)
  })

  test('ndjson', async () => {
    const found = await load(peopleTable, 'people', 'people.ndjson', { format: 'ndjson' }, 'id')
    assert.deepEqual(found.rows, peopleRows)
  })

  test('arrow, the table made from the file', async () => {
    const found = await b.page.evaluate(async () => {
      const { rowsAffected } = await db.import('arrows', 'files/flights-200k.arrow', { create: true })
      const all = await db.query('SELECT delay, distance, time FROM arrows')
      return { rowsAffected, all: JSON.stringify(all), columns: all.columns.map(({ name, type }) => `${name} ${type}`) }
    })
    // The same flights as JSON; their times are single-precision numbers in the Arrow file.
    const truth = JSON.parse(vega('flights-200k.json')).map(row => ({ ...row, time: Math.fround(row.time) }))
    const all = JSON.parse(found.all).map(row => ({ ...row, time: Math.fround(row.time) }))
    assert.equal(found.rowsAffected, truth.length)
    assert.deepEqual(all, truth)
    assert.deepEqual(found.columns, ['delay SMALLINT', 'distance SMALLINT', 'time FLOAT'])
  })

  test('a file of the real world: JSON with mixed values is imported whole or refused whole', async () => {
    const outcome = await b.page.evaluate(async () => {
      const before = await look()
      const outcome = await attempt(() => db.import('movies', 'files/movies.json', { create: true }))
      const after = await look()
      const n = outcome.value ? (await db.queryOne('SELECT count(*) AS n FROM movies')).n : undefined
      return { before, outcome, after, n }
    })
    if (outcome.outcome.error) {
      failsWith(outcome.outcome, ['INVALID_DATA', 'INVALID_TEXT_REPRESENTATION'])
      assert.deepEqual(outcome.after, outcome.before)
    } else {
      assert.equal(outcome.n, BigInt(JSON.parse(movies).length))
    }
  })
})

describe('sources', () => {
  const kinds = {
    Response: () => fetch('files/people.csv'),
    Blob: async () => new Blob([await (await fetch('files/people.csv')).text()], { type: 'text/csv' }),
    File: async () => new File([await (await fetch('files/people.csv')).text()], 'people.csv'),
    Uint8Array: async () => new Uint8Array(await (await fetch('files/people.csv')).arrayBuffer()),
    ArrayBuffer: async () => (await fetch('files/people.csv')).arrayBuffer(),
    ReadableStream: async () => (await fetch('files/people.csv')).body,
    'an address': async () => 'files/people.csv',
  }
  for (const [kind, make] of Object.entries(kinds)) {
    test(kind, async () => {
      const rows = await b.page.evaluate(
        async ({ make, create }) => {
          await db.exec('DROP TABLE IF EXISTS people')
          await db.exec(create)
          const source = await new Function(`return (${make})()`)()
          await db.import('people', source, { format: 'csv' })
          return db.query('SELECT * FROM people ORDER BY id')
        },
        { make: String(make), create: peopleTable },
      )
      assert.deepEqual(rows, peopleRows)
    })
  }
})

describe('broken files', () => {
  /** An import of `bytes` must fail with `code`, and neither a table nor a row nor a record stays. */
  async function refuses({ create, table, bytes, options, code, message, signalAfter }) {
    const result = await b.page.evaluate(
      async ({ create, table, base64, options, signalAfter }) => {
        await db.exec(`DROP TABLE IF EXISTS ${table}`)
        if (create) await db.exec(create)
        const bytes = Uint8Array.from(atob(base64), one => one.charCodeAt(0))
        const before = await look()
        const controller = new AbortController()
        // Half of the file, then the abort instead of the rest: an import of a whole one may be done before it is heard.
        const half = new ReadableStream({
          start: stream => stream.enqueue(bytes.slice(0, bytes.length >> 1)),
          pull: () => {
            controller.abort()
            return new Promise(() => {})
          },
        })
        const outcome = await attempt(() =>
          signalAfter
            ? db.import(table, half, { ...options, signal: controller.signal })
            : db.import(table, bytes, options),
        )
        const after = await look()
        const n = create ? (await db.queryOne(`SELECT count(*) AS n FROM ${table}`)).n : 0n
        const next = (await db.query('SELECT 1 AS one')).length
        return { before, outcome, after, n, next }
      },
      { create, table, base64: Buffer.from(bytes).toString('base64'), options, signalAfter },
    )
    const error = failsWith(result.outcome, code, { message })
    assert.deepEqual(result.after, result.before, 'a trace was left')
    assert.equal(result.n, 0n)
    assert.equal(result.next, 1)
    return error
  }

  for (const create of [flightsTable, '']) {
    const how = create ? 'into a table' : 'making the table'
    const into = { create, table: 'flights3', options: { format: 'parquet', create: !create } }
    if (create) into.create = create.replace('flights', 'flights3')

    test(`parquet cut short, ${how}`, async () => {
      for (const part of [0.999, 0.5, 0.01]) {
        await refuses({ ...into, bytes: parquet.subarray(0, Math.floor(parquet.length * part)), code: 'INVALID_DATA' })
      }
    })

    test(`parquet with its end in place and its middle missing, ${how}`, async () => {
      const middle = Buffer.concat([parquet.subarray(0, 1000), parquet.subarray(3000)])
      await refuses({ ...into, bytes: middle, code: 'INVALID_DATA' })
    })

    test(`no Parquet at all, ${how}`, async () => {
      await refuses({ ...into, bytes: Buffer.from('PAR1 this is none PAR1'), code: 'INVALID_DATA' })
      await refuses({ ...into, bytes: Buffer.alloc(0), code: 'INVALID_DATA' })
    })
  }

  test('parquet that lacks a NOT NULL column of the table', async () => {
    await refuses({
      create: 'CREATE TABLE flights3 (id INT NOT NULL, origin TEXT)',
      table: 'flights3',
      bytes: parquet,
      options: { format: 'parquet' },
      code: ['NOT_NULL_VIOLATION', 'COLUMN_NOT_FOUND', 'INVALID_DATA'],
    })
  })

  const lines = text => ({ bytes: Buffer.from(text), options: { format: 'csv' } })
  const numbers = { create: 'CREATE TABLE numbers (id INT PRIMARY KEY, n INT NOT NULL)', table: 'numbers' }

  test('csv with text where a number belongs: the line is named', async () => {
    await refuses({
      ...numbers,
      ...lines('id,n\n1,10\n2,20\n3,thirty\n4,40\n'),
      code: ['INVALID_DATA', 'INVALID_TEXT_REPRESENTATION'],
      message: /line 4\b/,
    })
  })

  test('csv with a bad row far down: the line is named', async () => {
    const many = Array.from({ length: 50_000 }, (_, at) => `${at},${at}`)
    many[43_210] = '43210,oops'
    await refuses({
      ...numbers,
      ...lines(`id,n\n${many.join('\n')}\n`),
      code: ['INVALID_DATA', 'INVALID_TEXT_REPRESENTATION'],
      message: /line 43212\b/,
    })
  })

  test('csv with a line break inside quotes before the bad row: the line is the one an editor shows', async () => {
    await refuses({
      create: 'CREATE TABLE texts (id INT PRIMARY KEY, body TEXT)',
      table: 'texts',
      ...lines('id,body\n1,"two\nlines"\nx,bad\n'),
      code: ['INVALID_DATA', 'INVALID_TEXT_REPRESENTATION'],
      message: /line 4\b/,
    })
  })

  test('csv with too many fields: the line is named', async () => {
    await refuses({ ...numbers, ...lines('id,n\n1,10\n2,20,200\n'), code: 'INVALID_DATA', message: /line 3\b/ })
  })

  test('csv with NULL in NOT NULL: the line is named', async () => {
    await refuses({
      ...numbers,
      ...lines('id,n\n1,10\n2,\n'),
      code: ['NOT_NULL_VIOLATION', 'INVALID_DATA'],
      message: /line 3\b|row 2\b/,
    })
  })

  test('csv with a key that comes twice', async () => {
    await refuses({ ...numbers, ...lines('id,n\n1,10\n2,20\n1,30\n'), code: 'UNIQUE_VIOLATION' })
  })

  test('csv with a column that the table does not have', async () => {
    await refuses({ ...numbers, ...lines('id,m\n1,10\n'), code: ['COLUMN_NOT_FOUND', 'INVALID_DATA'], message: /m/ })
  })

  test('json that breaks off', async () => {
    await refuses({
      ...numbers,
      bytes: Buffer.from('[{"id":1,"n":10},{"id":2,"n"'),
      options: { format: 'json' },
      code: 'INVALID_DATA',
    })
  })

  test('arrow that breaks off', async () => {
    const arrow = vega('flights-200k.arrow')
    await refuses({
      create: '',
      table: 'broken',
      bytes: arrow.subarray(0, arrow.length / 2),
      options: { format: 'arrow', create: true },
      code: 'INVALID_DATA',
    })
  })

  test('an address that is not there', async () => {
    const outcome = await b.page.evaluate(async () => {
      const before = await look()
      const outcome = await attempt(() => db.import('nothing', 'files/nothing.csv', { create: true }))
      return { before, outcome, after: await look() }
    })
    failsWith(outcome.outcome, 'INVALID_DATA', { message: /404/ })
    assert.deepEqual(outcome.after, outcome.before)
  })

  test('a table that is not there', async () => {
    await refuses({
      create: '',
      table: 'absent',
      bytes: parquet,
      options: { format: 'parquet' },
      code: 'TABLE_NOT_FOUND',
    })
  })

  test('an abort in the middle', async () => {
    await refuses({
      create: flightsTable.replace('flights', 'flights3'),
      table: 'flights3',
      bytes: parquet,
      options: { format: 'parquet' },
      code: 'CANCELLED',
      signalAfter: true,
    })
  })
})
