// What a crash of the browser leaves half written in its own write-ahead log. Chromium reuses that log, and takes a torn
// record with others behind it for damage: it then deletes every database of the origin. The engine has it begin a new
// log before it writes (src/storage/indexeddb/fresh_log.rs), and says so when everything was deleted all the same.

import assert from 'node:assert/strict'
import { appendFile, readdir, stat } from 'node:fs/promises'
import { test } from 'node:test'
import { browser, failsWith } from './lib/harness.mjs'

const b = browser()
/** LevelDB's log: blocks of this many bytes, records with a header of checksum (4), length (2) and type (1). */
const [BLOCK, HEADER, FULL] = [32_768, 7, 1]

/** The newest log of this origin. */
async function newestLog() {
  const folder = `${b.profile}/Default/IndexedDB`
  const store = (await readdir(folder)).find(name => name.endsWith('.indexeddb.leveldb'))
  const logs = (await readdir(`${folder}/${store}`)).filter(name => name.endsWith('.log')).sort()
  return `${folder}/${store}/${logs.at(-1)}`
}

/** Appends to the log of this origin a record that says it has `length` bytes and has only `written` of them. */
async function tear(length, written) {
  const log = await newestLog()
  const left = BLOCK - ((await stat(log)).size % BLOCK)
  // A block's last bytes are filled up with zeros if no header fits: the record goes into the next one.
  const filling = left < HEADER + length ? left : 0
  const torn = Buffer.alloc(filling + HEADER + written, 0x5a)
  torn.fill(0, 0, filling)
  torn.writeUInt16LE(length, filling + 4)
  torn[filling + 6] = FULL
  await appendFile(log, torn)
  return log
}

const insert = async from => {
  window.db ??= await connectWhenFree({ name: 'torn', durability: 'strict' })
  await db.exec('CREATE TABLE IF NOT EXISTS t (id INT PRIMARY KEY)')
  for (let id = from; id < from + 20; id++) await db.exec('INSERT INTO t VALUES ($1)', [id])
  return (await db.query('SELECT count(*) AS n FROM t'))[0].n
}

test('a record torn by a kill costs nothing', async () => {
  assert.equal(await b.page.evaluate(insert, 0), 20n)
  for (let round = 1; round <= 3; round++) {
    await b.restart({ kill: true })
    await b.chromium.kill()
    const tornLog = await tear(4000, round * 100)
    await b.restart()
    assert.equal(await b.page.evaluate(insert, round * 20), BigInt(round * 20 + 20), `after ${round} torn records`)
    assert.notEqual(await newestLog(), tornLog, 'rows are written into a new log')
  }
})

test('a database that the browser deleted is not taken for a new one', async () => {
  await b.chromium.kill()
  // Whole in length and wrong in content: damage that no new log can undo.
  await tear(4000, 4000)
  await tear(4000, 4000)
  await b.restart()
  const first = await b.page.evaluate(() => attempt(() => kalamdb.connect({ name: 'torn' })))
  failsWith(first, 'DATA_CORRUPTED', { message: /deleted every database of this origin/ })
  assert.equal(await b.page.evaluate(insert, 0), 20n, 'the next connection begins anew')
  await b.restart()
  assert.equal(await b.page.evaluate(insert, 20), 40n)
})
