// What the journal in front of IndexedDB has left: its files, and what IndexedDB holds without it.
//
// Invariant: nothing here goes through the engine, and nothing is changed by a look.

import { readdirSync } from 'node:fs'
import { root } from './harness.mjs'

/** The files in the directory of journals, by name, with their sizes. */
export const journalFiles = page =>
  page.evaluate(async () => {
    const storage = await navigator.storage.getDirectory()
    const directory = await storage.getDirectoryHandle('kalamdb').catch(() => undefined)
    const files = {}
    if (directory !== undefined) {
      for await (const [name, handle] of directory.entries()) files[name] = (await handle.getFile()).size
    }
    return files
  })

/** Whether a text is in a journal, and whether it is in a database of IndexedDB. Both keep rows as they are. */
export const whereIs = (page, text) =>
  page.evaluate(async text => {
    const has = bytes => new TextDecoder('latin1').decode(bytes).includes(text)
    const result = request =>
      new Promise((done, failed) => {
        request.onsuccess = () => done(request.result)
        request.onerror = () => failed(request.error)
      })
    const found = { journal: false, indexedDb: false }
    const storage = await navigator.storage.getDirectory()
    const directory = await storage.getDirectoryHandle('kalamdb').catch(() => undefined)
    if (directory !== undefined) {
      for await (const handle of directory.values()) {
        found.journal ||= has(await (await handle.getFile()).arrayBuffer())
      }
    }
    for (const { name, version } of await indexedDB.databases()) {
      const database = await result(indexedDB.open(name, version))
      for (const store of database.objectStoreNames) {
        const values = await result(database.transaction(store).objectStore(store).getAll())
        found.indexedDb ||= values.some(has)
      }
      database.close()
    }
    return found
  }, text)

/** The address of the engine's worker in the built page. */
export function workerUrl() {
  const [name, ...more] = readdirSync(`${root}tests/browser/dist/assets`).filter(file => /^worker-.*\.js$/.test(file))
  if (name === undefined || more.length > 0) throw new Error('the built page has no worker, or several: npm run build')
  return `/assets/${name}`
}

/** A worker's script that runs `patch` before the engine is there; files for the `extra` of `browser`. */
export function patchedWorker(name, patch) {
  return new Map([
    [`/${name}.patch.js`, `(${patch})()`],
    [`/${name}.js`, `import './${name}.patch.js'\nimport '.${workerUrl()}'\n`],
  ])
}
