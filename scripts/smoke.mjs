// Starts the engine that was just built, through the npm package in Node, and asks it for an answer.
import assert from 'node:assert/strict'
import { fileURLToPath, pathToFileURL } from 'node:url'

const entry = fileURLToPath(new URL('../sdks/typescript/dist/index.js', import.meta.url))
const { connect } = await import(pathToFileURL(entry).href)
const db = await connect({ name: 'smoke', storage: 'memory' })
await db.exec("CREATE TABLE t (id INT PRIMARY KEY, name TEXT); INSERT INTO t VALUES (1, 'it runs')")
assert.deepEqual([...(await db.query('SELECT name FROM t WHERE id = $1', [1]))], [{ name: 'it runs' }])
await db.close()
