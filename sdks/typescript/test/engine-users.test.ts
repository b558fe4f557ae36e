// Users on the real engine, inline in Node with memory storage. Needs pkg/ (make build).

import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, it } from 'node:test'
import { connect, type Database } from '../src/index.js'
import { code } from './code.js'

describe('users', () => {
  let db: Database
  let alice: Database
  let bob: Database

  beforeEach(async () => {
    db = await connect({ name: 'users', storage: 'memory' })
    await db.exec('CREATE USER TABLE notes (id INT PRIMARY KEY, text TEXT, author TEXT DEFAULT CURRENT_USER)')
    await db.exec('CREATE TABLE wall (id INT PRIMARY KEY, text TEXT)')
    alice = await db.as('alice')
    bob = await db.as('bob')
  })
  afterEach(() => db.close())

  const texts = async (session: Database): Promise<unknown[]> =>
    (await session.query('SELECT text FROM notes ORDER BY id')).map(row => row.text)

  it('have rows of their own, whichever way they come and are asked for', async () => {
    await alice.exec("INSERT INTO notes (id, text) VALUES (1, 'a1')")
    await bob.insert('notes', [
      { id: 1, text: 'b1' },
      { id: 2, text: 'b2' },
    ])
    await alice.import('notes', new TextEncoder().encode('id,text\n2,a2\n'), { format: 'csv' })
    await db.insert('notes', await bob.arrow("SELECT 9 AS id, 'from bob' AS text"))
    assert.deepEqual(await texts(alice), ['a1', 'a2'])
    assert.deepEqual(await texts(bob), ['b1', 'b2'])
    assert.deepEqual(await texts(db), ['from bob'])
    const authors = await alice.query('SELECT DISTINCT author, CURRENT_USER AS me FROM notes')
    assert.deepEqual([...authors], [{ author: 'alice', me: 'alice' }])
    assert.equal((await bob.exec("UPDATE notes SET text = 'x'")).rowsAffected, 2)
    assert.equal((await bob.exec('DELETE FROM notes')).rowsAffected, 2)
    assert.deepEqual(await texts(alice), ['a1', 'a2'])
    assert.equal((await alice.status()).user, 'alice')
    assert.equal((await alice.status()).userRole, 'user')
    assert.equal((await db.status()).userRole, 'system')
  })

  it('share what is shared', async () => {
    await alice.exec("INSERT INTO wall VALUES (1, 'hello')")
    assert.equal((await bob.queryOne('SELECT text FROM wall'))?.text, 'hello')
  })

  it('share the text of a statement, not its plan', async () => {
    for (const session of [alice, bob, db, alice, bob]) {
      const row = await session.queryOne('SELECT CURRENT_USER AS me, count(*) AS n FROM notes WHERE id > $1', [0])
      assert.equal(row?.me, (await session.status()).user)
    }
  })

  it('have a namespace for each session', async () => {
    await db.exec('CREATE NAMESPACE other; CREATE TABLE other.t (a INT)')
    const second = await db.as('alice')
    await second.exec('USE other')
    await second.query('SELECT * FROM t')
    await assert.rejects(alice.query('SELECT * FROM t'), code('TABLE_NOT_FOUND'))
    await second.close()
    await assert.rejects(second.query('SELECT 1'), code('CONNECTION_CLOSED'))
    await alice.query('SELECT 1')
  })

  it('may do what their roles say', async () => {
    await assert.rejects(alice.exec('CREATE TABLE t (a INT)'), code('INSUFFICIENT_PRIVILEGE'))
    await assert.rejects(alice.exec("EXECUTE AS USER 'bob' (SELECT 1)"), code('INSUFFICIENT_PRIVILEGE'))
    await assert.rejects(alice.as('bob'), code('INSUFFICIENT_PRIVILEGE'))
    await assert.rejects(alice.dropUser('bob'), code('INSUFFICIENT_PRIVILEGE'))
    const file = new TextEncoder().encode('a\n1\n')
    await assert.rejects(alice.import('fresh', file, { format: 'csv', create: true }), code('INSUFFICIENT_PRIVILEGE'))
    await db.exec("CREATE USER 'alice' ROLE dba")
    await alice.exec('CREATE TABLE t (a INT)')
    await db.exec("ALTER USER 'alice' SET ROLE user")
    await assert.rejects(alice.exec('DROP TABLE t'), code('INSUFFICIENT_PRIVILEGE'))
  })

  it('are dropped in one call', async () => {
    await alice.exec("INSERT INTO notes (id, text) VALUES (1, 'a1')")
    await bob.exec("INSERT INTO notes (id, text) VALUES (1, 'b1')")
    await db.dropUser('alice')
    await db.dropUser('nobody')
    assert.deepEqual(await texts(alice), [])
    assert.deepEqual(await texts(bob), ['b1'])
    await alice.exec("INSERT INTO notes (id, text) VALUES (1, 'again')")
    assert.deepEqual(await texts(alice), ['again'])
  })

  it('can be the one who connects, with a role', async () => {
    const plain = await connect({ name: 'plain', storage: 'memory', user: 'carol', role: 'user' })
    assert.equal((await plain.queryOne('SELECT CURRENT_USER() AS me'))?.me, 'carol')
    await assert.rejects(plain.exec('CREATE TABLE t (a INT)'), code('INSUFFICIENT_PRIVILEGE'))
    await assert.rejects(plain.as('dave'), code('INSUFFICIENT_PRIVILEGE'))
    await plain.close()
    await assert.rejects(connect({ name: 'x', storage: 'memory', role: 'root' as 'user' }), code('INVALID_OPTION'))
    await assert.rejects(connect({ name: 'x', storage: 'memory', user: '' }), code('INVALID_NAME'))
  })
})
