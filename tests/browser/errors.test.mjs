// Bad input gets a typed error and leaves no trace.
//
// Each case runs against the same two tables. Before and after it the whole database is read: tables, columns, rows,
// and the number of records in the storage. The two readings must be equal, and the next statement must work.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { browser, failsWith } from './lib/harness.mjs'

const b = browser({
  ready: page =>
    page.evaluate(async () => {
      window.db = await kalamdb.connect('errors')
      await window.db.exec(`
      CREATE TABLE items (id BIGINT PRIMARY KEY, name TEXT NOT NULL, price DECIMAL(10,2), seen DATE, num INT);
      INSERT INTO items VALUES (1, 'one', 1.50, '2024-01-01', 10), (2, 'two', NULL, NULL, 20), (3, 'three', 3, NULL, NULL);
      CREATE TABLE other (id INT PRIMARY KEY, item_id BIGINT);
      INSERT INTO other VALUES (1, 1), (2, 1)`)
      window.look = async () => ({
        tables: await db.query(
          'SELECT table_schema, table_name FROM information_schema.tables ORDER BY table_schema, table_name',
        ),
        columns: await db.query(`SELECT table_name, column_name, data_type FROM information_schema.columns
        WHERE table_schema = 'default' ORDER BY table_name, ordinal_position`),
        items: await db.query('SELECT * FROM items ORDER BY id'),
        other: await db.query('SELECT * FROM other ORDER BY id'),
        records: (await db.status()).records,
      })
      window.around = async work => {
        const before = await look()
        const outcome = await attempt(work)
        return { before, outcome, after: await look() }
      }
    }),
})

/** `sql` with `params`, or a function of the page, must fail with `code`. */
function refuses(title, what, code, expected = {}) {
  test(title, async () => {
    const { before, outcome, after } =
      typeof what === 'function'
        ? await b.page.evaluate(`around(${what})`)
        : await b.page.evaluate(({ sql, params }) => around(() => db.query(sql, params)), what)
    failsWith(outcome, code, expected)
    assert.deepEqual(after, before, 'a trace was left')
  })
}
const sql = (text, params) => ({ sql: text, params })

// --- syntax ---
refuses('a word that begins no statement', sql('SELEC 1'), 'SYNTAX_ERROR', { position: { line: 1, column: 1 } })
refuses('a syntax error on a later line', sql("SELECT *\nFROM items\nWHERE name = = 'x'"), 'SYNTAX_ERROR', {
  position: { line: 3, column: 14 },
})
refuses('columns are counted in characters', sql("SELECT '🌍🌍' = = 1"), 'SYNTAX_ERROR', {
  position: { line: 1, column: 15 },
})
refuses('an unfinished string', sql("SELECT 'abc"), 'SYNTAX_ERROR')
refuses(
  'a syntax error in the second statement: the first is not run',
  sql("INSERT INTO items (id, name) VALUES (100, 'x'); SELEC 2"),
  'SYNTAX_ERROR',
)

// --- names ---
refuses('SELECT from an unknown table', sql('SELECT * FROM nowhere'), 'TABLE_NOT_FOUND', { message: /nowhere/ })
refuses('SELECT from an unknown namespace', sql('SELECT * FROM nope.items'), ['TABLE_NOT_FOUND', 'NAMESPACE_NOT_FOUND'])
refuses('INSERT into an unknown table', sql('INSERT INTO nowhere VALUES (1)'), 'TABLE_NOT_FOUND', {
  message: /nowhere/,
})
refuses('UPDATE of an unknown table', sql('UPDATE nowhere SET a = 1'), 'TABLE_NOT_FOUND')
refuses('DELETE from an unknown table', sql('DELETE FROM nowhere'), 'TABLE_NOT_FOUND')
refuses('DROP of an unknown table', sql('DROP TABLE nowhere'), 'TABLE_NOT_FOUND')
refuses('CREATE of a table that is there', sql('CREATE TABLE items (a INT)'), 'TABLE_EXISTS')
refuses('db.insert into an unknown table', () => db.insert('nowhere', [{ a: 1 }]), 'TABLE_NOT_FOUND')
refuses('SELECT of an unknown column', sql('SELECT nme FROM items'), 'COLUMN_NOT_FOUND', { message: /nme/ })
refuses('WHERE with an unknown column', sql('SELECT * FROM items WHERE nme = 1'), 'COLUMN_NOT_FOUND')
refuses('INSERT of an unknown column', sql("INSERT INTO items (id, nme) VALUES (9, 'x')"), 'COLUMN_NOT_FOUND')
refuses('UPDATE of an unknown column', sql('UPDATE items SET nme = 1'), 'COLUMN_NOT_FOUND')
refuses('DELETE with an unknown column', sql('DELETE FROM items WHERE nme = 1'), 'COLUMN_NOT_FOUND')
refuses('db.insert of an unknown column', () => db.insert('items', [{ id: 9n, nme: 'x' }]), 'COLUMN_NOT_FOUND')
refuses(
  'a column that two tables have',
  sql('SELECT id FROM items JOIN other ON other.item_id = items.id'),
  'AMBIGUOUS_COLUMN',
)
refuses('an unknown function', sql('SELECT frobnicate(id) FROM items'), 'FUNCTION_NOT_FOUND', {
  message: /frobnicate/i,
})
refuses('an unknown type', sql('CREATE TABLE t (a WIBBLE)'), 'TYPE_NOT_FOUND', { message: /wibble/i })
refuses('an unknown type in CAST', sql('SELECT CAST(1 AS WIBBLE)'), 'TYPE_NOT_FOUND')
refuses('a column named twice', sql('CREATE TABLE t (a INT, a TEXT)'), 'DUPLICATE_COLUMN')
refuses('a reserved namespace', sql('CREATE TABLE system.t (a INT)'), ['INVALID_NAME', 'INSUFFICIENT_PRIVILEGE'])
refuses('a table without columns', sql('CREATE TABLE t ()'), ['INVALID_DEFINITION', 'SYNTAX_ERROR'])

// --- constraints ---
refuses('a key that is there: INSERT', sql("INSERT INTO items (id, name) VALUES (1, 'again')"), 'UNIQUE_VIOLATION', {
  message: /1/,
})
refuses(
  'a key that is there, after rows that are new',
  sql("INSERT INTO items (id, name) VALUES (50, 'a'), (51, 'b'), (2, 'c')"),
  'UNIQUE_VIOLATION',
)
refuses(
  'one key twice in one statement',
  sql("INSERT INTO items (id, name) VALUES (60, 'a'), (60, 'b')"),
  'UNIQUE_VIOLATION',
)
refuses(
  'a key that is there: INSERT … SELECT',
  sql('INSERT INTO items (id, name) SELECT id + 1, name FROM items'),
  'UNIQUE_VIOLATION',
)
refuses('a key that is there: UPDATE', sql('UPDATE items SET id = 1 WHERE id = 2'), 'UNIQUE_VIOLATION')
refuses('all keys become one: UPDATE', sql('UPDATE items SET id = 7'), 'UNIQUE_VIOLATION')
refuses(
  'a key that is there: db.insert',
  () =>
    db.insert('items', [
      { id: 70n, name: 'a' },
      { id: 3n, name: 'b' },
    ]),
  'UNIQUE_VIOLATION',
)
refuses('NULL in NOT NULL: INSERT', sql('INSERT INTO items (id, name) VALUES (9, NULL)'), 'NOT_NULL_VIOLATION', {
  message: /name/,
})
refuses('a NOT NULL column left out', sql('INSERT INTO items (id) VALUES (9)'), 'NOT_NULL_VIOLATION', {
  message: /name/,
})
refuses(
  'NULL in NOT NULL: a later row',
  sql("INSERT INTO items (id, name) VALUES (9, 'x'), (10, NULL)"),
  'NOT_NULL_VIOLATION',
)
refuses('NULL in NOT NULL: UPDATE', sql('UPDATE items SET name = NULL WHERE id = 1'), 'NOT_NULL_VIOLATION')
refuses(
  'NULL in NOT NULL: db.insert',
  () =>
    db.insert('items', [
      { id: 9n, name: 'x' },
      { id: 10n, name: null },
    ]),
  'NOT_NULL_VIOLATION',
)
refuses('NULL as a key', sql("INSERT INTO items (id, name) VALUES (NULL, 'x')"), 'NOT_NULL_VIOLATION')

// --- parameters ---
refuses('too few parameters', sql('SELECT * FROM items WHERE id = $1 AND name = $2', [1]), 'PARAMETER_COUNT', {
  message: /2/,
})
refuses('no parameters', sql('SELECT * FROM items WHERE id = $1'), 'PARAMETER_COUNT')
refuses('too many parameters', sql('SELECT * FROM items WHERE id = $1', [1, 2]), 'PARAMETER_COUNT')
refuses('parameters for a statement without any', sql('SELECT 1', [1]), 'PARAMETER_COUNT')
refuses('too few parameters of a change', sql('UPDATE items SET name = $2 WHERE id = $1', [1]), 'PARAMETER_COUNT')
refuses('a parameter of the wrong type', sql('SELECT * FROM items WHERE id = $1', ['abc']), [
  'PARAMETER_TYPE',
  'INVALID_TEXT_REPRESENTATION',
])
refuses('a parameter of the wrong type: INSERT', sql('INSERT INTO items (id, name) VALUES ($1, $2)', [true, 'x']), [
  'PARAMETER_TYPE',
  'DATATYPE_MISMATCH',
])
refuses('a parameter that is no value', () => db.query('SELECT $1', [Symbol('x')]), 'PARAMETER_TYPE')
refuses('a function as a parameter', () => db.query('SELECT $1', [() => 1]), 'PARAMETER_TYPE')

// --- values ---
refuses(
  'text that is no number',
  sql("INSERT INTO items (id, name, num) VALUES (9, 'x', 'abc')"),
  'INVALID_TEXT_REPRESENTATION',
  {
    message: /abc/,
  },
)
refuses(
  'a number that INT cannot hold',
  sql("INSERT INTO items (id, name, num) VALUES (9, 'x', 3000000000)"),
  'NUMERIC_VALUE_OUT_OF_RANGE',
)
refuses(
  'a number that DECIMAL(10,2) cannot hold',
  sql("INSERT INTO items (id, name, price) VALUES (9, 'x', 123456789.5)"),
  'NUMERIC_VALUE_OUT_OF_RANGE',
)
refuses(
  'a day that does not exist',
  sql("INSERT INTO items (id, name, seen) VALUES (9, 'x', '2024-02-30')"),
  'INVALID_DATETIME',
)
refuses('too many values', sql("INSERT INTO items (id, name) VALUES (9, 'x', 1)"), [
  'INVALID_STATEMENT',
  'SYNTAX_ERROR',
])
refuses('division by zero', sql('SELECT 1 / 0'), 'DIVISION_BY_ZERO')
refuses('division by zero in a change of many rows', sql('UPDATE items SET num = 10 / (id - 2)'), 'DIVISION_BY_ZERO')
refuses('a scalar subquery of many rows', sql('SELECT (SELECT id FROM items)'), 'CARDINALITY_VIOLATION')
refuses('db.insert of a value of the wrong type', () => db.insert('items', [{ id: 9n, name: 'x', num: {} }]), [
  'DATATYPE_MISMATCH',
  'INVALID_TEXT_REPRESENTATION',
])
refuses(
  'db.insert of a number beyond INT',
  () => db.insert('items', [{ id: 9n, name: 'x', num: 2 ** 40 }]),
  'NUMERIC_VALUE_OUT_OF_RANGE',
)

// --- calls ---
refuses(
  'an aborted signal',
  () => db.query('SELECT 1', [], { signal: AbortSignal.abort(new Error('enough')) }),
  'CANCELLED',
)
test('of several statements, those before the one that fails stay, as without a transaction', async () => {
  const rows = await b.page.evaluate(async () => {
    await attempt(() => db.exec('INSERT INTO other VALUES (80, 1); INSERT INTO other VALUES (1, 1), (81, 1)'))
    const rows = await db.query('SELECT id FROM other ORDER BY id')
    await db.exec('DELETE FROM other WHERE id = 80')
    return rows
  })
  assert.deepEqual(
    rows.map(row => row.id),
    [1, 2, 80],
  )
})

test('an empty text is no error', async () => {
  assert.deepEqual(await b.page.evaluate(() => db.query(' -- nothing\n')), [])
})

test('the position survives to the SDK for a planner error too, where the text has the name', async () => {
  const outcome = await b.page.evaluate(() => attempt(() => db.query('SELECT id,\n  nme\nFROM items')))
  const error = failsWith(outcome, 'COLUMN_NOT_FOUND')
  if (error.position) assert.deepEqual(error.position, { line: 2, column: 3 })
})

test('the next statement works', async () => {
  assert.deepEqual(await b.page.evaluate(() => db.query('SELECT count(*) AS n FROM items')), [{ n: 3n }])
})

test('connect refuses an option that it does not know', async () => {
  failsWith(await b.page.evaluate(() => attempt(() => kalamdb.connect({ name: '' }))), [
    'INVALID_NAME',
    'INVALID_OPTION',
  ])
  failsWith(await b.page.evaluate(() => attempt(() => kalamdb.connect({ name: 'x', nodeId: 'not allowed!' }))), [
    'INVALID_NAME',
    'INVALID_OPTION',
  ])
})
