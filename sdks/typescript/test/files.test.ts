// Files as storage: crashes, damage, locks, rewriting. The conformance suite of all backends runs on them too, through
// the engine (scripts/host-test.sh); these are the checks that only files need.

import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { after, describe, it } from 'node:test'
import type { HostStorage, StorageOperation } from '../src/index.js'
import { deleteFiles, openFiles } from '../src/node/index.js'
import { SortedMap } from '../src/node/sorted-map.js'
import { code } from './code.js'

const root = fs.mkdtempSync(path.join(os.tmpdir(), 'kalamdb-files-'))
after(() => fs.rmSync(root, { recursive: true, force: true }))
let folders = 0
const folder = (): string => path.join(root, `db-${++folders}`)

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const put = (key: string, value: string | Uint8Array): StorageOperation => ({
  type: 'put',
  partition: 'log',
  key: bytes(key),
  value: typeof value === 'string' ? bytes(value) : value,
})
const strict = { durability: 'strict' } as const
const relaxed = { durability: 'relaxed' } as const
const records = async (storage: HostStorage): Promise<Record<string, string>> => {
  const decode = (b: Uint8Array): string => new TextDecoder().decode(b)
  return Object.fromEntries((await storage.scan('log', {})).map(([key, value]) => [decode(key), decode(value)]))
}
const log = (at: string): string => path.join(at, 'data-1.log')
/** What lies in a folder now, as a process that dies leaves it; gives the function that puts it there again. */
const crash = (at: string): ((whole?: Uint8Array) => void) => {
  const [current, data] = [fs.readFileSync(path.join(at, 'CURRENT')), fs.readFileSync(log(at))]
  return (whole = data) => {
    fs.writeFileSync(path.join(at, 'CURRENT'), current)
    fs.writeFileSync(log(at), whole)
  }
}

describe('files', () => {
  it('keep what was committed, and tell the durability', async () => {
    const at = folder()
    let storage = await openFiles(at)
    assert.equal(await storage.commit([put('a', '1')], { durability: 'memory' }), 'relaxed')
    assert.equal(await storage.commit([put('b', '2')], relaxed), 'relaxed')
    assert.equal(
      await storage.commit([put('c', '3'), { type: 'delete', partition: 'log', key: bytes('a') }], strict),
      'strict',
    )
    await storage.close()
    storage = await openFiles(at)
    assert.deepEqual(await records(storage), { b: '2', c: '3' })
    const stats = await storage.stats?.()
    assert.equal(stats?.records, 2)
    assert.ok((stats?.quota ?? 0) > (stats?.usage ?? 0))
    await storage.close()
    await deleteFiles(at)
    assert.equal(fs.existsSync(at), false)
    await deleteFiles(at)
  })

  it('are not made by who only reads', async () => {
    const at = folder()
    await assert.rejects(openFiles(at, { create: false }), code('DATABASE_NOT_FOUND', { sqlstate: '3D000' }))
    assert.equal(fs.existsSync(at), false)
    await (await openFiles(at)).close()
    await (await openFiles(at, { create: false })).close()
  })

  it('lose nothing but the end of a log that was cut anywhere', async () => {
    const at = folder()
    const storage = await openFiles(at)
    const ends: number[] = []
    for (let n = 0; n < 5; n++) {
      await storage.commit([put(`k${n}`, 'v'.repeat(20 * n))], relaxed)
      ends.push(fs.statSync(log(at)).size)
    }
    const whole = fs.readFileSync(log(at))
    const crashed = crash(at)
    await storage.close()
    for (let size = 16; size <= whole.length; size++) {
      crashed(whole.subarray(0, size))
      const again = await openFiles(at)
      const left = ends.filter(end => end <= size).length
      assert.deepEqual(
        Object.keys(await records(again)),
        [0, 1, 2, 3, 4].slice(0, left).map(n => `k${n}`),
      )
      // And it goes on from there.
      await again.commit([put('next', 'x')], strict)
      await again.close()
      const third = await openFiles(at)
      assert.equal((await records(third)).next, 'x')
      await third.close()
    }
  })

  it('tell a log that was cut after it was flushed from one whose end is torn', async () => {
    const at = folder()
    const storage = await openFiles(at)
    for (let n = 0; n < 5; n++) await storage.commit([put(`k${n}`, 'v'.repeat(20))], relaxed)
    await storage.close()
    const whole = fs.readFileSync(log(at))
    const mark = 32
    for (let size = 0; size <= whole.length; size++) {
      fs.writeFileSync(log(at), whole.subarray(0, size))
      if (size < whole.length - mark) {
        await assert.rejects(openFiles(at), code('DATA_CORRUPTED'))
        const salvaged = await openFiles(at, { salvage: true })
        const found = Object.keys(await records(salvaged))
        assert.deepEqual(found, ['k0', 'k1', 'k2', 'k3', 'k4'].slice(0, found.length))
        assert.ok(((await salvaged.damage?.())?.length ?? 0) > 0)
        await salvaged.close()
      } else {
        const again = await openFiles(at)
        assert.equal(Object.keys(await records(again)).length, 5)
        await again.close()
      }
    }
  })

  it('stay where they are when the process goes to another folder', async () => {
    const here = process.cwd()
    process.chdir(root)
    try {
      const storage = await openFiles('moving')
      process.chdir(os.tmpdir())
      await storage.commit([put('a', '1')], relaxed)
      await storage.compact?.()
      await storage.close()
    } finally {
      process.chdir(here)
    }
    assert.deepEqual(fs.readdirSync(path.join(root, 'moving')).sort(), ['CURRENT', 'data-2.log'])
    await assert.rejects(openFiles(5 as never), code('INVALID_OPTION', /number 5/))
  })

  it('refuse damage of what was flushed, but for that of a value, and can be salvaged', async () => {
    const at = folder()
    const storage = await openFiles(at)
    for (let n = 0; n < 6; n++) await storage.commit([put(`k${n}`, `value ${n}`)], n % 2 === 0 ? strict : relaxed)
    await storage.close()
    const whole = fs.readFileSync(log(at))
    // Closing has said that everything is flushed, in a batch of its own.
    const mark = 32
    const batch = (whole.length - 16 - mark) / 6
    const keys = ['k0', 'k1', 'k2', 'k3', 'k4', 'k5']
    for (let byte = 0; byte < whole.length; byte++) {
      const damaged = Buffer.from(whole)
      damaged[byte] = (damaged[byte] as number) ^ 0x10
      fs.writeFileSync(log(at), damaged)
      const place = (byte - 16) % batch
      const hit = Math.floor((byte - 16) / batch)
      if (byte < 16) {
        // A version that is one bit off is told apart from a later one by the header's checksum.
        await assert.rejects(openFiles(at), code('DATA_CORRUPTED'))
        const salvaged = await openFiles(at, { salvage: true })
        assert.deepEqual(Object.keys(await records(salvaged)), keys)
        assert.equal((await salvaged.damage?.())?.length, 1)
        await salvaged.close()
        continue
      }
      const inMark = byte >= whole.length - mark
      const inValue = !inMark && place >= batch - 'value 0'.length
      if (inMark || inValue) {
        const again = await openFiles(at)
        const found = await records(again)
        assert.deepEqual(Object.keys(found), keys)
        for (const key of keys) assert.equal(found[key] === `value ${key[1]}`, !inValue || key !== `k${hit}`)
        await again.close()
        continue
      }
      await assert.rejects(
        openFiles(at),
        code('DATA_CORRUPTED', /the file '.*data-1\.log' is damaged: the batch at byte/),
      )
      const salvaged = await openFiles(at, { salvage: true })
      assert.deepEqual(
        Object.keys(await records(salvaged)),
        keys.filter(key => key !== `k${hit}`),
      )
      const lost = await salvaged.damage?.()
      assert.deepEqual(
        lost?.map(({ detail }) => detail),
        [`bytes ${16 + hit * batch} to ${16 + (hit + 1) * batch} cannot be read: the changes in them are lost`],
      )
      assert.throws(() => salvaged.commit([put('x', 'y')], strict), code('STORAGE_ERROR'))
      await salvaged.close()
      assert.deepEqual(fs.readFileSync(log(at)), damaged)
    }
  })

  it('cut off what was not flushed when the power went, wherever a hole is in it', async () => {
    for (const hole of ['operations', 'value']) {
      const at = folder()
      const storage = await openFiles(at)
      for (let n = 0; n < 6; n++) await storage.commit([put(`k${n}`, `value ${n}`)], relaxed)
      const torn = fs.readFileSync(log(at))
      const crashed = crash(at)
      await storage.close()
      const batch = (torn.length - 16) / 6
      const end = 16 + 3 * batch
      torn.fill(0, hole === 'value' ? end - 7 : 16 + 2 * batch, end)
      crashed(torn)
      const again = await openFiles(at)
      assert.deepEqual(Object.keys(await records(again)), ['k0', 'k1'])
      await again.commit([put('next', 'x')], relaxed)
      await again.close()
      const third = await openFiles(at)
      assert.deepEqual(Object.keys(await records(third)), ['k0', 'k1', 'next'])
      await third.close()
    }
  })

  it('are not begun anew because CURRENT is gone or damaged', async () => {
    const at = folder()
    const storage = await openFiles(at)
    await storage.commit([put('a', '1')], relaxed)
    await storage.close()
    const current = path.join(at, 'CURRENT')
    const content = fs.readFileSync(current)
    for (const damage of [() => fs.writeFileSync(current, 'data-7.log 0\n'), () => fs.rmSync(current)]) {
      damage()
      await assert.rejects(openFiles(at), code('DATA_CORRUPTED', /CURRENT' is damaged/))
      const salvaged = await openFiles(at, { salvage: true })
      assert.deepEqual(await records(salvaged), { a: '1' })
      await salvaged.close()
    }
    fs.writeFileSync(current, content)
    assert.deepEqual(await openFiles(at).then(async again => [await records(again), await again.close()][0]), {
      a: '1',
    })
    // A deletion that a crash interrupted is finished.
    fs.renameSync(current, path.join(at, 'DELETED'))
    await assert.rejects(openFiles(at, { create: false }), code('DATABASE_NOT_FOUND'))
    const anew = await openFiles(at)
    assert.deepEqual(await records(anew), {})
    await anew.close()
    assert.deepEqual(fs.readdirSync(at).sort(), ['CURRENT', 'data-1.log'])
  })

  it('of version 1 are read, and become files of this version', async () => {
    const at = folder()
    const version1 =
      'S0FMQU1MT0cBAAAAYHDf/UtCQVTLIas6HAAAAAEAAAAAAAAAEAAAAAAAAAABAgEAAABhAwAAAG9uZQEEAQAAAHgDAAAAdHdvS0JBVMc/skQfAAAAAgAA' +
      'AAAAAABIAAAAAAAAAAECAQAAAGIFAAAAdGhyZWUCAgEAAABhAwQBAQAAAHhLQkFUnWWPew8AAAADAAAAAAAAAIMAAAAAAAAAAQIBAAAAYwQAAABmb3Vy'
    fs.mkdirSync(at, { recursive: true })
    fs.writeFileSync(log(at), Buffer.from(version1, 'base64'))
    fs.writeFileSync(path.join(at, 'CURRENT'), 'data-1.log 62a56fa4\n')
    for (let round = 0; round < 2; round++) {
      const storage = await openFiles(at)
      assert.deepEqual(await records(storage), { b: 'three', c: 'four' })
      assert.deepEqual(await storage.scan('blob', {}), [])
      await storage.close()
      assert.deepEqual(fs.readdirSync(at).sort(), ['CURRENT', 'data-2.log'])
    }
  })

  it('say in words what the file system refuses', async () => {
    const file = path.join(root, 'a file')
    fs.writeFileSync(file, '')
    await assert.rejects(openFiles(path.join(file, 'x.kalamdb')), code('STORAGE_ERROR', /cannot be used: ENOTDIR/))
  })

  it('take a write back that fails, and go on', async () => {
    const at = folder()
    const storage = await openFiles(at)
    await storage.commit([put('a', '1')], strict)
    const { writeSync, fdatasync } = fs
    for (const fail of ['write', 'torn', 'flush'] as const) {
      fs.writeSync = ((fd: number, buffer: Uint8Array, offset: number, length: number, position: number) => {
        if (fail === 'torn') writeSync(fd, buffer, offset, length - 5, position)
        if (fail !== 'flush') throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' })
        return writeSync(fd, buffer, offset, length, position)
      }) as typeof fs.writeSync
      fs.fdatasync = ((_fd: number, done: (error: Error | null) => void) =>
        done(new Error('EIO'))) as typeof fs.fdatasync
      try {
        await assert.rejects(Promise.resolve(storage.commit([put('b', fail)], strict)))
      } finally {
        Object.assign(fs, { writeSync, fdatasync })
      }
      assert.deepEqual(await records(storage), { a: '1' })
    }
    await storage.commit([put('c', '3')], strict)
    await storage.close()
    const again = await openFiles(at)
    assert.deepEqual(await records(again), { a: '1', c: '3' })
    await again.close()
  })

  it('give the room of garbage back when the disk is full', async () => {
    const at = folder()
    const storage = await openFiles(at)
    const noise = new Uint8Array(50_000).fill(1)
    for (let n = 0; n < 20; n++) await storage.commit([put('same', noise)], relaxed)
    await storage.commit([put('kept', '1')], relaxed)
    const { writeSync } = fs
    const full = fs.statSync(log(at)).size
    fs.writeSync = ((fd: number, buffer: Uint8Array, offset: number, length: number, position: number) => {
      if (position + length > full) throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' })
      return writeSync(fd, buffer, offset, length, position)
    }) as typeof fs.writeSync
    try {
      await storage.commit([put('more', noise)], strict)
      await assert.rejects(Promise.resolve(storage.commit([put('huge', new Uint8Array(full))], strict)), /ENOSPC/)
    } finally {
      Object.assign(fs, { writeSync })
    }
    const found = await records(storage)
    assert.deepEqual(Object.keys(found), ['kept', 'more', 'same'])
    await storage.close()
    const again = await openFiles(at)
    assert.deepEqual(await records(again), found)
    await again.close()
  })

  it('are rewritten without garbage, whenever that is interrupted', async () => {
    const at = folder()
    let storage = await openFiles(at)
    const noise = new Uint8Array(100_000).map((_, i) => i % 251)
    for (let n = 0; n < 60; n++) await storage.commit([put(`k${n % 3}`, noise), put(`small ${n}`, `${n}`)], relaxed)
    const before = await storage.scan('log', {})
    await storage.compact?.()
    assert.deepEqual(await storage.scan('log', {}), before)
    await storage.commit([put('after', '1')], strict)
    const size = (await storage.stats?.())?.usage ?? 0
    assert.ok(size < 400_000, `${size}`)
    await storage.close()
    assert.deepEqual(fs.readdirSync(at).sort(), ['CURRENT', 'data-2.log'])
    // A crash before CURRENT was renamed leaves both logs, and a half one counts for nothing.
    fs.writeFileSync(path.join(at, 'data-3.log'), 'half')
    fs.writeFileSync(path.join(at, 'CURRENT.tmp'), 'half')
    storage = await openFiles(at)
    assert.deepEqual((await storage.scan('log', {})).length, before.length + 1)
    assert.deepEqual(fs.readdirSync(at).sort(), ['CURRENT', 'LOCK', 'data-2.log'])
    await storage.close()
  })

  it('belong to one connection at a time', async () => {
    const at = folder()
    const storage = await openFiles(at)
    await assert.rejects(openFiles(at, { lockGraceMs: 50 }), code('DATABASE_LOCKED'))
    await assert.rejects(deleteFiles(at), code('DATABASE_LOCKED'))
    // One who waits has it as soon as it is free.
    const waiting = openFiles(at, { lockGraceMs: 5000 })
    await storage.close()
    await (await waiting).close()
    assert.throws(() => storage.get('log', bytes('a')), code('CONNECTION_CLOSED'))
    // Left by a process that is gone, by one of our own number before us, and by one that died while it made the lock.
    const gone = [
      { pid: 2 ** 22 - 1, started: '', at: Date.now() },
      { pid: process.pid, started: '1', at: Date.now() - 1e9 },
    ].map(owner => JSON.stringify(owner))
    for (const content of [...gone, '', '{"pi']) {
      fs.writeFileSync(path.join(at, 'LOCK'), content)
      await (await openFiles(at, { lockGraceMs: 3000 })).close()
    }
    assert.deepEqual(fs.readdirSync(at).sort(), ['CURRENT', 'data-1.log'])
  })
})

describe('a sorted map', () => {
  it('does what a sorted array does', () => {
    const map = new SortedMap<number>()
    const oracle = new Map<string, number>()
    let seed = 1
    const random = (end: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0
      return (seed >>> 8) % end
    }
    for (let n = 0; n < 30_000; n++) {
      const key = n < 6000 ? `a${String(n).padStart(6, '0')}` : `a${String(random(9000)).padStart(6, '0')}`
      if (random(3) === 0) {
        assert.equal(map.delete(key), oracle.get(key))
        oracle.delete(key)
      } else {
        assert.equal(map.set(key, n), oracle.get(key))
        oracle.set(key, n)
      }
      if (n % 1000 === 0) {
        const all = [...oracle].sort(([a], [b]) => (a < b ? -1 : 1))
        assert.equal(map.size, all.length)
        assert.deepEqual([...map.range(undefined, undefined)], all)
        const [from, to] = [`a${random(9000)}`, `a00${random(9000)}`].sort() as [string, string]
        const inside = all.filter(([key]) => key >= from && key < to)
        assert.deepEqual([...map.range(from, to)], inside)
        assert.deepEqual([...map.reverse(from, to)], inside.reverse())
        assert.deepEqual([...map.reverse(undefined, undefined)], all.reverse())
      }
    }
  })
})

/** Writes until it is killed and says what was acknowledged. */
const WRITER = `
  const { openFiles } = await import(process.argv[2])
  const storage = await openFiles(process.argv[3])
  const start = Number(process.argv[4])
  for (let n = start; ; n++) {
    const key = new TextEncoder().encode(String(n).padStart(8, '0'))
    const value = new Uint8Array(1 + (n * 7919) % 30000).fill(n)
    await storage.commit([
      { type: 'put', partition: 'log', key, value },
      { type: 'put', partition: 'meta', key: new TextEncoder().encode('last'), value: key },
    ], { durability: n % 3 === 0 ? 'strict' : 'relaxed' })
    if (n % 500 === 499) await storage.compact()
    process.stdout.write(n + '\\n')
  }
`

describe('a process that is killed', () => {
  it('loses nothing that was acknowledged, and leaves no half batch', async () => {
    const at = folder()
    const entry = new URL('../src/node/index.js', import.meta.url).href
    let next = 0
    for (let round = 0; round < 12; round++) {
      const child: ChildProcess = spawn(process.execPath, ['--input-type=module', '-', entry, at, String(next)])
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
      while (told === '' && complaint === '') await new Promise(resolve => setTimeout(resolve, 5))
      await new Promise(resolve => setTimeout(resolve, 1 + round * 17))
      child.kill('SIGKILL')
      await gone
      assert.equal(complaint, '')
      const acknowledged = Number(told.split('\n').at(-2))
      const storage = await openFiles(at)
      const found = await storage.scan('log', {})
      assert.ok(found.length > acknowledged, `${acknowledged} acknowledged, ${found.length} there`)
      found.forEach(([key, value], n) => {
        assert.equal(Number(new TextDecoder().decode(key)), n)
        assert.equal(value.length, 1 + ((n * 7919) % 30000))
        assert.equal(value[0], n % 256)
      })
      const last = await storage.get('meta', bytes('last'))
      assert.equal(Number(new TextDecoder().decode(last)), found.length - 1)
      next = found.length
      await storage.close()
    }
  })
})
