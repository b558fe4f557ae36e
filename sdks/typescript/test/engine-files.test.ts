// The real engine on files: everything survives closing, receipts are honest, a killed process loses nothing that was
// acknowledged, and a backup goes from one storage to another. Needs pkg/ (make build); without it every test fails.

import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { after, describe, it } from 'node:test'
import { connect, deleteDatabase, type HostStorage, rescue, type StoragePartition } from '../src/index.js'
import { openFiles } from '../src/node/index.js'
import { code } from './code.js'

const root = fs.mkdtempSync(path.join(os.tmpdir(), 'kalamdb-engine-'))
after(() => fs.rmSync(root, { recursive: true, force: true }))

// Of its own address, so that it is compiled within the test.
const wasmUrl = `${new URL('../src/wasm/kalamdb_bg.wasm', import.meta.url).href}?given-up`

describe('a database in files', () => {
  it('survives closing and is gone when it is deleted', async () => {
    const at = { path: path.join(root, 'survives'), name: 'a/b: ü.*' }
    {
      await using db = await connect(at)
      await db.exec('CREATE TABLE t (k INT PRIMARY KEY, v TEXT); CREATE VIEW w AS SELECT v FROM t')
      await db.exec("INSERT INTO t VALUES (1, 'one'), (2, 'two')")
      const status = await db.status()
      assert.equal(status.storage, 'host')
      assert.ok(status.persisted && status.records > 5 && (status.quota ?? 0) > 0)
      await assert.rejects(connect(at), code('DATABASE_LOCKED'))
    }
    assert.equal(fs.readdirSync(at.path).length, 1)
    {
      await using db = await connect(at)
      assert.deepEqual([...(await db.query('SELECT * FROM w ORDER BY v'))], [{ v: 'one' }, { v: 'two' }])
    }
    await deleteDatabase(at.name, { path: at.path })
    assert.equal(fs.readdirSync(at.path).length, 0)
    await using db = await connect({ path: at.path })
    assert.equal(db.name, 'default')
  })

  it('is free again when connecting was given up', async () => {
    const at = { path: path.join(root, 'given-up'), name: 'g' }
    await (await connect(at)).close()
    for (const phase of ['compile', 'open']) {
      const giveUp = new AbortController()
      const connecting = connect({
        ...at,
        wasm: wasmUrl,
        signal: giveUp.signal,
        onProgress: progress => progress.phase === phase && giveUp.abort(),
      })
      await assert.rejects(connecting, code('CANCELLED'))
      await (await connect(at)).close()
    }
  })

  it('tells the durability that was reached', async () => {
    await using files = await connect({ path: path.join(root, 'durable'), durability: 'strict' })
    await files.exec('CREATE TABLE t (k INT)')
    const of = async (durability?: 'memory' | 'relaxed' | 'strict') =>
      (await files.exec('INSERT INTO t VALUES (1)', [], { durability })).durability
    assert.deepEqual([await of(), await of('relaxed'), await of('memory')], ['strict', 'relaxed', 'relaxed'])
    await using memory = await connect({ name: 'm', storage: 'memory', durability: 'strict' })
    await memory.exec('CREATE TABLE t (k INT)')
    assert.equal((await memory.exec('INSERT INTO t VALUES (1)')).durability, 'memory')
  })

  it('goes to another storage and back as a backup', async () => {
    let bytes: Uint8Array
    {
      await using db = await connect({ path: path.join(root, 'source') })
      await db.exec('CREATE TABLE t (k INT PRIMARY KEY, v TEXT)')
      await db.insert(
        't',
        Array.from({ length: 5000 }, (_, k) => ({ k, v: `row ${k}` })),
      )
      await db.exec("UPDATE t SET v = 'changed' WHERE k % 10 = 0; DELETE FROM t WHERE k > 4000")
      bytes = await db.backup()
    }
    const question = "SELECT count(*) AS n, sum(k) AS s, count(*) FILTER (WHERE v = 'changed') AS c FROM t"
    const expected = [{ n: 4001n, s: 8_002_000n, c: 401n }]
    await using memory = await connect({ name: 'copy', storage: 'memory', restore: bytes })
    assert.deepEqual([...(await memory.query(question))], expected)
    const back = { path: path.join(root, 'back'), restore: await memory.backup() }
    {
      await using db = await connect(back)
      assert.deepEqual([...(await db.query(question))], expected)
    }
    await assert.rejects(connect(back), code('DATABASE_EXISTS'))
    await using again = await connect({ path: back.path })
    assert.deepEqual([...(await again.query(question))], expected)
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] as number) ^ 1
    await assert.rejects(connect({ path: path.join(root, 'bad'), restore: bytes }), code('DATA_CORRUPTED'))
    await assert.rejects(connect({ name: 'x', storage: 'memory', restore: new Uint8Array(9) }), code('INVALID_DATA'))
    // The refused one left nothing in the way.
    await using fresh = await connect({ path: path.join(root, 'bad') })
    await fresh.exec('CREATE TABLE t (k INT)')
  })

  it('is rescued as far as it can be read', async () => {
    const at = { path: path.join(root, 'damaged') }
    {
      await using db = await connect(at)
      await db.exec('CREATE TABLE good (k INT PRIMARY KEY); INSERT INTO good VALUES (1), (2)')
      await db.exec("CREATE TABLE bad (k INT, v TEXT); INSERT INTO bad VALUES (1, 'a value to be damaged')")
    }
    // The value's own checksum finds it: the file's is made right again by rewriting it.
    const storage = await openFiles(path.join(at.path, 'default.kalamdb'))
    const records = await storage.scan('log', { reverse: true, limit: 1 })
    const [key, value] = records[0] as readonly [Uint8Array, Uint8Array]
    value[value.length - 1] = (value[value.length - 1] as number) ^ 1
    await storage.commit([{ type: 'put', partition: 'log', key, value }], { durability: 'strict' })
    await storage.close()
    {
      await using db = await connect(at)
      const found = await db.query<{ object: string; status: string }>('STORAGE CHECK')
      assert.deepEqual(
        found.filter(row => row.status !== 'ok').map(row => row.object),
        ['table default.bad'],
      )
      await assert.rejects(db.query('SELECT * FROM bad'), code('DATA_CORRUPTED'))
      await assert.rejects(rescue(at), code('DATABASE_LOCKED'))
    }
    const { bytes, report } = await rescue(at)
    assert.deepEqual(
      report.filter(row => row.status !== 'ok').map(row => row.object),
      ['table default.bad'],
    )
    await using db = await connect({ name: 'rescued', storage: 'memory', restore: bytes })
    assert.deepEqual([...(await db.query('SELECT count(*) AS n FROM good'))], [{ n: 2n }])
    assert.deepEqual([...(await db.query('SELECT count(*) AS n FROM bad'))], [{ n: 0n }])
  })

  it('never gives other rows than were written, whichever byte is damaged, and can be rescued', async () => {
    const at = { path: path.join(root, 'flipped'), name: 'f' }
    const rows = { log: 60, segment: 4000, other: 1 }
    const log = path.join(at.path, 'f.kalamdb', 'data-1.log')
    {
      await using db = await connect(at)
      await db.exec('CREATE TABLE segment (k INT PRIMARY KEY, v TEXT); CREATE TABLE log (k INT PRIMARY KEY)')
      await db.exec('CREATE TABLE other (k INT PRIMARY KEY)')
      await db.insert(
        'segment',
        Array.from({ length: rows.segment }, (_, k) => ({ k, v: String((k * 7919) % 10007).repeat(9) })),
      )
      await db.exec('STORAGE FLUSH ALL')
      for (let k = 0; k < rows.log; k++) await db.exec('INSERT INTO log VALUES ($1)', [k])
      await db.exec('INSERT INTO other VALUES (1)')
    }
    const whole = fs.readFileSync(log)
    const seen = new Set<string>()
    const step = Math.floor(whole.length / 60)
    for (let byte = 7; byte < whole.length - 32; byte += step) {
      const damaged = Buffer.from(whole)
      damaged[byte] = (damaged[byte] as number) ^ 0x20
      fs.writeFileSync(log, damaged)
      const opened = await connect(at).then(
        db => db,
        error => code('DATA_CORRUPTED')(error) && undefined,
      )
      if (opened === undefined) seen.add('not opened')
      for (const [table, expected] of opened === undefined ? [] : Object.entries(rows)) {
        await opened?.query(`SELECT count(k) AS n, min(k), max(_seq) FROM ${table}`).then(
          ([found]) => assert.equal(Number(found?.n), expected, `${table}, byte ${byte}`),
          error => code('DATA_CORRUPTED')(error) && seen.add(table),
        )
      }
      await opened?.close()
      fs.writeFileSync(log, damaged)
      const { bytes, report } = await rescue(at)
      assert.deepEqual(fs.readFileSync(log), damaged)
      await using rescued = await connect({ name: 'rescued', storage: 'memory', restore: bytes })
      const told = report.some(row => row.status !== 'ok')
      for (const [table, expected] of Object.entries(rows)) {
        const found = await rescued.query(`SELECT count(*) AS n FROM ${table}`).catch(() => undefined)
        assert.ok(told || Number(found?.[0]?.n) === expected, `${table} lacks rows, and nothing says so`)
      }
    }
    // Damage of the whole, of one table's log, and of a segment were all met.
    for (const what of ['not opened', 'log', 'segment']) assert.ok(seen.has(what), what)
  })

  it('is not made by rescuing it', async () => {
    const at = { path: path.join(root, 'nothing'), name: 'none' }
    await assert.rejects(rescue(at), code('DATABASE_NOT_FOUND', /no database in the folder '.*none\.kalamdb'/))
    assert.equal(fs.existsSync(at.path), false)
  })

  it('runs on storage of the app, whose errors arrive typed', async () => {
    const maps = new Map<string, Map<string, Uint8Array>>()
    const hex = (key: Uint8Array): string => Buffer.from(key).toString('hex')
    const map = (partition: StoragePartition): Map<string, Uint8Array> => {
      const found = maps.get(partition) ?? new Map<string, Uint8Array>()
      maps.set(partition, found)
      return found
    }
    let full = false
    let closed = 0
    const storage: HostStorage = {
      get: (partition, key) => map(partition).get(hex(key)),
      scan: async (partition, { from, to, limit, reverse }) => {
        const keys = [...map(partition).keys()].sort()
        const inside = keys.filter(key => (!from || key >= hex(from)) && (!to || key < hex(to)))
        if (reverse) inside.reverse()
        return inside
          .slice(0, limit)
          .map(key => [new Uint8Array(Buffer.from(key, 'hex')), map(partition).get(key) as Uint8Array] as const)
      },
      commit: async (operations, { durability }) => {
        if (full) throw Object.assign(new Error('the disk is full'), { code: 'QUOTA_EXCEEDED' })
        for (const operation of operations) {
          const records = map(operation.partition)
          if (operation.type === 'put') records.set(hex(operation.key), operation.value)
          else if (operation.type === 'delete') records.delete(hex(operation.key))
          else {
            const { from, to } = operation
            for (const key of records.keys()) {
              if ((!from || key >= hex(from)) && (!to || key < hex(to))) records.delete(key)
            }
          }
        }
        return durability
      },
      close: () => void closed++,
    }
    {
      await using db = await connect({ name: 'app', storage })
      await db.exec('CREATE TABLE t (k INT PRIMARY KEY); INSERT INTO t VALUES (1)')
      full = true
      await assert.rejects(db.exec('INSERT INTO t VALUES (2)'), code('QUOTA_EXCEEDED'))
      full = false
      assert.equal((await db.exec('INSERT INTO t VALUES (3)', [], { durability: 'strict' })).durability, 'strict')
      assert.deepEqual([...(await db.query('SELECT k FROM t ORDER BY k'))], [{ k: 1 }, { k: 3 }])
    }
    assert.equal(closed, 1)
    await using db = await connect({ name: 'app', storage: { ...storage, close: () => {} } })
    assert.deepEqual([...(await db.query('SELECT k FROM t ORDER BY k'))], [{ k: 1 }, { k: 3 }])
    await assert.rejects(connect({ name: 'x', storage: {} as never }), code('INVALID_OPTION'))
  })
})

/** Inserts until it is killed; every statement writes two tables' worth in one row each, and says when it is through. */
const WRITER = `
  const { connect } = await import(process.argv[2])
  const db = await connect({ path: process.argv[3], durability: 'strict' })
  await db.exec('CREATE TABLE IF NOT EXISTS t (k INT PRIMARY KEY, v TEXT)')
  let n = Number((await db.queryOne('SELECT count(*) AS n FROM t')).n)
  process.stdout.write('start ' + n + '\\n')
  for (;;) {
    const k = n
    const rows = [0, 1, 2, 3].map(i => '(' + (k + i) + ", '" + 'x'.repeat((k * 31) % 700) + "')").join()
    await db.exec('INSERT INTO t VALUES ' + rows)
    n += 4
    process.stdout.write('done ' + n + '\\n')
  }
`

describe('an engine whose process is killed', () => {
  it('has every acknowledged statement, and each of them whole', { timeout: 120_000 }, async () => {
    const at = path.join(root, 'killed')
    const entry = new URL('../src/index.js', import.meta.url).href
    for (let round = 0; round < 6; round++) {
      const child: ChildProcess = spawn(process.execPath, ['--input-type=module', '-', entry, at])
      child.stdin?.end(WRITER)
      let told = ''
      let complaint = ''
      child.stdout?.on('data', data => {
        told += data
      })
      child.stderr?.on('data', data => {
        complaint += data
      })
      const gone = new Promise(resolve => child.on('close', resolve))
      while (!told.includes('done') && complaint === '') await new Promise(resolve => setTimeout(resolve, 5))
      await new Promise(resolve => setTimeout(resolve, 1 + round * 37))
      child.kill('SIGKILL')
      await gone
      assert.equal(complaint, '')
      const acknowledged = Number(told.split('\n').at(-2)?.split(' ')[1])
      await using db = await connect({ path: at })
      const row = await db.queryOne<{ n: bigint; top: number }>('SELECT count(*) AS n, max(k) AS top FROM t')
      assert.ok(row !== undefined && Number(row.n) >= acknowledged, `${acknowledged} acknowledged, ${row?.n} there`)
      assert.equal(Number(row.n) % 4, 0)
      assert.equal(row.top, Number(row.n) - 1)
    }
  })
})
