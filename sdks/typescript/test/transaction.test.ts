// db.transaction on a double of the client: what is sent when, retries, and what is refused. What a transaction sees is
// the engine's business (engine-transaction.test.ts).

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Connection } from '../src/database.js'
import { KalamError } from '../src/errors.js'
import type { Caller } from '../src/transaction.js'
import type { CallOptions, Transaction } from '../src/types.js'
import { code } from './code.js'

const RECEIPT = { rowsAffected: 1, seq: 7n, durability: 'relaxed' } as const

const error = (name: string) =>
  new KalamError({ code: name, message: name, retryable: name === 'SERIALIZATION_FAILURE' })

/** Writes down the calls; fails where it was told to. */
class Client {
  log: string[] = []
  /** Errors by what is called, used up one by one. */
  failures = new Map<string, KalamError[]>()
  private begun = 0
  /** Statements that wait for their signal. */
  waiting = 0

  fail(what: string, ...names: string[]): void {
    this.failures.set(what, names.map(error))
  }

  async call(op: string, args: Record<string, unknown>, options?: CallOptions): Promise<unknown> {
    const what = op === 'run' ? String(args.sql) : op
    const place = args.transaction === undefined ? '' : ` in ${String(args.transaction)}`
    const extra = ['user', 'readOnly', 'durability'].filter(k => args[k] !== undefined)
    this.log.push([`${what}${place}`, ...extra.map(k => `${k}=${String(args[k])}`)].join(' '))
    if (what === 'wait') {
      this.waiting++
      return new Promise((_, reject) => {
        options?.signal?.addEventListener('abort', () => reject(error('CANCELLED')))
      })
    }
    await new Promise(resolve => setTimeout(resolve, 1))
    const failure = this.failures.get(what)?.shift()
    if (failure !== undefined) throw failure
    return op === 'begin' ? { transaction: `t${++this.begun}` } : RECEIPT
  }

  async close(): Promise<void> {
    this.log.push('close')
  }

  connect(scope?: { user: string; session: string }): Connection {
    return new Connection('shop', this as unknown as Caller, 'bigint', 'relaxed', scope)
  }
}

describe('transaction', () => {
  it('commits what its function did, and gives what it returned', async () => {
    const client = new Client()
    const db = client.connect()
    const result = await db.transaction(
      async tx => {
        await tx.exec('one')
        await db.exec('outside')
        await tx.query('two')
        return 42
      },
      { durability: 'strict' },
    )
    assert.equal(result, 42)
    assert.deepEqual(client.log, ['begin', 'one in t1', 'outside', 'two in t1', 'commit in t1 durability=strict'])
  })

  it('rolls back when its function throws', async () => {
    const client = new Client()
    const mine = new Error('mine')
    const failing = client.connect().transaction(
      async tx => {
        await tx.exec('one')
        throw mine
      },
      { readOnly: true },
    )
    await assert.rejects(failing, e => e === mine)
    assert.deepEqual(client.log, ['begin readOnly=true', 'one in t1', 'rollback in t1'])
  })

  it('runs again when another writer was first', async () => {
    const client = new Client()
    client.fail('commit', 'SERIALIZATION_FAILURE')
    client.fail('one', 'SERIALIZATION_FAILURE')
    let runs = 0
    await client.connect().transaction(async tx => {
      runs++
      await tx.exec('one')
    })
    assert.equal(runs, 3)
    assert.deepEqual(client.log, [
      'begin',
      'one in t1',
      'rollback in t1',
      'begin',
      'one in t2',
      'commit in t2',
      'rollback in t2',
      'begin',
      'one in t3',
      'commit in t3',
    ])
  })

  it('runs again whatever its function makes of the conflict', async () => {
    const client = new Client()
    const db = client.connect()
    client.fail('one', 'SERIALIZATION_FAILURE')
    client.fail('commit', 'IN_FAILED_TRANSACTION')
    await db.transaction(async tx => {
      await tx.exec('one').catch(() => {})
    })
    client.fail('one', 'SERIALIZATION_FAILURE')
    await db.transaction(async tx => {
      await tx.exec('one').catch(cause => {
        throw new Error('wrapped', { cause })
      })
    })
    assert.equal(client.log.filter(line => line === 'begin').length, 4)
  })

  it('gives up after its retries, and retries nothing else', async () => {
    const client = new Client()
    const db = client.connect()
    const run = (tx: Transaction) => tx.exec('one')
    client.fail('commit', 'SERIALIZATION_FAILURE', 'SERIALIZATION_FAILURE', 'SERIALIZATION_FAILURE')
    await assert.rejects(db.transaction(run, { retries: 1 }), code('SERIALIZATION_FAILURE'))
    assert.equal(client.log.filter(line => line === 'begin').length, 2)
    client.log = []
    await assert.rejects(db.transaction(run, { retries: 0 }), code('SERIALIZATION_FAILURE'))
    for (const name of ['UNIQUE_VIOLATION', 'TRANSACTION_TIMEOUT', 'STORAGE_ERROR']) {
      client.fail('commit', name)
      await assert.rejects(db.transaction(run), code(name))
    }
    assert.equal(client.log.filter(line => line === 'begin').length, 4)
  })

  it('says why it failed, not that it had failed', async () => {
    const client = new Client()
    client.fail('one', 'NOT_NULL_VIOLATION')
    client.fail('commit', 'IN_FAILED_TRANSACTION')
    const swallowed = client.connect().transaction(async tx => {
      await tx.exec('one').catch(() => {})
    })
    await assert.rejects(swallowed, code('NOT_NULL_VIOLATION'))
  })

  it('takes no call after its end', async () => {
    const client = new Client()
    const db = client.connect()
    let kept: Transaction | undefined
    await db.transaction(tx => {
      kept = tx
    })
    await assert.rejects(kept?.exec('late') ?? Promise.resolve(), code('NO_ACTIVE_TRANSACTION'))
    await assert.rejects(
      db.transaction(tx => {
        kept = tx
        throw new Error('mine')
      }),
    )
    await assert.rejects(kept?.query('late') ?? Promise.resolve(), code('NO_ACTIVE_TRANSACTION'))
    assert.ok(!client.log.some(line => line.startsWith('late')))
  })

  it('waits for calls that nobody awaited', async () => {
    const client = new Client()
    await client.connect().transaction(tx => {
      void tx.exec('one')
    })
    assert.deepEqual(client.log, ['begin', 'one in t1', 'commit in t1'])
  })

  it('does not nest, and belongs to one user', async () => {
    const client = new Client()
    const alice = client.connect({ user: 'alice', session: 's' })
    await alice.transaction(async tx => {
      const whole = tx as Connection
      await assert.rejects(
        whole.transaction(async () => {}),
        code('ACTIVE_TRANSACTION'),
      )
      await assert.rejects(whole.as('bob'), code('FEATURE_NOT_SUPPORTED'))
      await tx.exec('one')
    })
    assert.deepEqual(client.log, ['begin user=alice', 'one in t1 user=alice', 'commit in t1'])
  })

  it('ends by its signal and its time limit, running statements too', async () => {
    const client = new Client()
    const db = client.connect()
    const stop = new AbortController()
    const run = async (tx: Transaction): Promise<void> => {
      await tx.exec('wait')
    }
    const stopped = db.transaction(run, { signal: stop.signal })
    while (client.waiting === 0) await new Promise(resolve => setTimeout(resolve, 1))
    stop.abort()
    await assert.rejects(stopped, code('CANCELLED'))
    await assert.rejects(db.transaction(run, { timeoutMs: 5 }), code('TIMEOUT'))
    await assert.rejects(
      db.transaction(() => new Promise(() => {}), { timeoutMs: 5 }),
      code('TIMEOUT'),
    )
    await assert.rejects(db.transaction(run, { signal: stop.signal }), code('CANCELLED'))
    assert.equal(client.log.filter(line => line.startsWith('rollback')).length, 3)
    assert.ok(!client.log.some(line => line.startsWith('commit')))
  })

  it('a call within it can be stopped alone', async () => {
    const client = new Client()
    const stop = new AbortController()
    await client.connect().transaction(async tx => {
      const call = tx.exec('wait', [], { signal: stop.signal })
      stop.abort()
      await assert.rejects(call, code('CANCELLED'))
    })
    assert.equal(client.log.at(-1), 'commit in t1')
  })

  it('checks its arguments', async () => {
    const db = new Client().connect()
    await assert.rejects(db.transaction(undefined as never), code('INVALID_OPTION'))
    await assert.rejects(
      db.transaction(() => {}, { retries: -1 }),
      code('INVALID_OPTION'),
    )
    await assert.rejects(
      db.transaction(() => {}, { durability: 'never' as never }),
      code('INVALID_OPTION'),
    )
  })
})
