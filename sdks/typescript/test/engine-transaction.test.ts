// Transactions through the SDK on the real engine, inline in Node with memory storage. Needs pkg/ (make build).

import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { connect, type Database } from '../src/index.js'
import { code } from './code.js'

describe('transactions of the real engine', () => {
  let db: Database
  before(async () => {
    db = await connect({ name: 'transactions', storage: 'memory' })
    await db.exec('CREATE TABLE account (id INT PRIMARY KEY, amount BIGINT)')
    await db.exec('CREATE TABLE entry (account INT, amount BIGINT)')
    await db.exec('INSERT INTO account VALUES (1, 100), (2, 100)')
  })
  after(() => db.close())

  const amounts = async (): Promise<unknown[]> =>
    (await db.query<{ amount: bigint }>('SELECT amount FROM account ORDER BY id')).map(row => row.amount)

  it('are seen by themselves only, until they commit together', async () => {
    await db.transaction(async tx => {
      await tx.exec('UPDATE account SET amount = amount - 30 WHERE id = 1')
      await tx.exec('UPDATE account SET amount = amount + 30 WHERE id = $1', [2])
      await tx.insert('entry', [
        { account: 1, amount: -30n },
        { account: 2, amount: 30n },
      ])
      await tx.import('entry', new TextEncoder().encode('account,amount\n3,0\n'), { format: 'csv' })
      assert.deepEqual(await tx.queryOne('SELECT sum(amount) AS sum, count(*) AS n FROM entry'), { sum: 0n, n: 3n })
      assert.deepEqual([...(await tx.sql`SELECT amount FROM account WHERE id = ${1}`)], [{ amount: 70n }])
      assert.deepEqual(await amounts(), [100n, 100n])
    })
    assert.deepEqual(await amounts(), [70n, 130n])
    assert.deepEqual(await db.queryOne('SELECT count(*) AS n FROM entry'), { n: 3n })
  })

  it('leave nothing when their function throws', async () => {
    await assert.rejects(
      db.transaction(async tx => {
        await tx.exec('DELETE FROM account')
        throw new Error('mine')
      }),
      /mine/,
    )
    assert.deepEqual(await amounts(), [70n, 130n])
  })

  it('all count, however they overlap', async () => {
    const add = () =>
      db.transaction(
        async tx => {
          const row = await tx.queryOne<{ amount: bigint }>('SELECT amount FROM account WHERE id = 1')
          await tx.exec('UPDATE account SET amount = $1 WHERE id = 1', [(row?.amount ?? 0n) + 1n])
        },
        { retries: 100 },
      )
    await Promise.all(Array.from({ length: 10 }, add))
    assert.deepEqual(await amounts(), [80n, 130n])
  })

  it('are not begun and ended by SQL', async () => {
    for (const sql of ['COMMIT', 'COMMIT; BEGIN', 'ROLLBACK', 'END', 'BEGIN', 'DELETE FROM entry; ABORT']) {
      for (const run of ['exec', 'query'] as const) {
        await assert.rejects(
          db.transaction(async tx => {
            await tx.exec('DELETE FROM account')
            await tx[run](sql)
          }),
          code('ACTIVE_TRANSACTION'),
          sql,
        )
      }
    }
    // Not even if nobody looks at the error.
    await assert.rejects(
      db.transaction(async tx => {
        await tx.exec('DELETE FROM account')
        await tx.exec('COMMIT').catch(() => {})
      }),
      code('ACTIVE_TRANSACTION'),
    )
    await db.transaction(async tx => {
      await tx.exec('SAVEPOINT s; DELETE FROM account; ROLLBACK TO s; RELEASE s')
    })
    assert.deepEqual(await amounts(), [80n, 130n])
    assert.deepEqual(await db.queryOne('SELECT count(*) AS n FROM entry'), { n: 3n })
  })

  it('by BEGIN belong to the connection', async () => {
    await db.exec('BEGIN; UPDATE account SET amount = 0')
    assert.deepEqual(await amounts(), [0n, 0n])
    await db.transaction(async tx => {
      assert.deepEqual(await tx.queryOne('SELECT sum(amount) AS sum FROM account'), { sum: 210n })
    })
    await db.exec('ROLLBACK')
    assert.deepEqual(await amounts(), [80n, 130n])
    await assert.rejects(db.exec('COMMIT'), code('NO_ACTIVE_TRANSACTION'))
  })

  it('take no definitions and no changes when they are read-only', async () => {
    await assert.rejects(
      db.transaction(tx => tx.exec('CREATE TABLE x (id INT)')),
      code('FEATURE_NOT_SUPPORTED'),
    )
    await assert.rejects(
      db.transaction(tx => tx.exec('DELETE FROM account'), { readOnly: true }),
      code('READ_ONLY_TRANSACTION'),
    )
  })

  it('belong to their user', async () => {
    await db.exec('CREATE USER TABLE note (id INT PRIMARY KEY, text TEXT)')
    const alice = await db.as('alice')
    await alice.transaction(async tx => {
      await tx.exec("INSERT INTO note VALUES (1, 'mine')")
      assert.deepEqual(await tx.queryOne('SELECT count(*) AS n FROM note'), { n: 1n })
    })
    assert.deepEqual(await db.queryOne('SELECT count(*) AS n FROM note'), { n: 0n })
    assert.deepEqual(await alice.queryOne('SELECT text FROM note'), { text: 'mine' })
  })

  it('time out when they are left', async () => {
    const short = await connect({ name: 'short', storage: 'memory', transactionTimeoutMs: 1 })
    await short.exec('CREATE TABLE t (id INT)')
    await assert.rejects(
      short.transaction(async tx => {
        await tx.exec('INSERT INTO t VALUES (1)')
        await new Promise(resolve => setTimeout(resolve, 20))
        await tx.exec('INSERT INTO t VALUES (2)')
      }),
      code('TRANSACTION_TIMEOUT'),
    )
    assert.deepEqual(await short.queryOne('SELECT count(*) AS n FROM t'), { n: 0n })
    await short.close()
  })
})
