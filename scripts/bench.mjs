// Measures the built engine through the npm package, in Node on memory storage: what a statement costs without a browser
// or a disk. It prints figures and asserts none; compare runs on the same machine only. The demo measures IndexedDB.
import { existsSync } from 'node:fs'
import { performance } from 'node:perf_hooks'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { table } from './lib/sizes.mjs'

const rows = Number(process.env.ROWS ?? 200_000)
const entry = fileURLToPath(new URL('../sdks/typescript/dist/index.js', import.meta.url))
if (!existsSync(entry)) {
  console.error('error: the npm package is not built; run: make build PROFILE=release')
  process.exit(1)
}
const { connect } = await import(pathToFileURL(entry).href)

const results = [['', 'runs', 'median ms', 'p95 ms', 'per second']]
/** Runs `work(i)` `runs` times after one warm-up and keeps median, 95th percentile and the rate of `units` per run. */
async function measure(name, runs, work, units = 1) {
  await work(-1)
  const times = []
  for (let i = 0; i < runs; i++) {
    const start = performance.now()
    await work(i)
    times.push(performance.now() - start)
  }
  times.sort((a, b) => a - b)
  const median = times[Math.floor(runs / 2)]
  const p95 = times[Math.min(runs - 1, Math.floor(runs * 0.95))]
  const rate = Math.round((units * 1000) / median).toLocaleString('en')
  results.push([name, String(runs), median.toFixed(3), p95.toFixed(3), rate])
}

const opening = performance.now()
const db = await connect({ name: 'bench', storage: 'memory' })
await db.queryOne('SELECT 1')
console.log(`open and first answer: ${(performance.now() - opening).toFixed(0)} ms\n`)

await db.exec('CREATE TABLE items (id INT PRIMARY KEY, city INT NOT NULL, price DOUBLE NOT NULL, name TEXT)')
await db.exec('CREATE TABLE cities (id INT PRIMARY KEY, name TEXT NOT NULL)')
await db.insert(
  'cities',
  Array.from({ length: 100 }, (_, id) => ({ id, name: `city ${id}` })),
)
const item = id => ({ id, city: id % 100, price: (id * 7919) % 1000, name: `item ${id}` })
const chunk = Math.max(1, Math.floor(rows / 10))
await measure(
  `insert ${chunk} rows`,
  9,
  i =>
    db.insert(
      'items',
      Array.from({ length: chunk }, (_, n) => item((i + 1) * chunk + n)),
    ),
  chunk,
)
const some = i => ((i + 1) * 7919) % (chunk * 10)
await measure('key lookup', 500, i => db.queryOne('SELECT * FROM items WHERE id = $1', [some(i)]))
await measure('insert of one row', 500, i =>
  db.exec('INSERT INTO items VALUES ($1, 1, 2.5, $2)', [chunk * 10 + i + 1, 'new']),
)
await measure('update by key', 500, i => db.exec('UPDATE items SET price = $2 WHERE id = $1', [some(i), i]))
await measure(
  'group by',
  20,
  () => db.query('SELECT city, count(*) AS n, avg(price) AS p FROM items GROUP BY city'),
  chunk * 10,
)
await measure(
  'join and sort',
  20,
  () =>
    db.query(
      'SELECT c.name, sum(i.price) AS total FROM items i JOIN cities c ON c.id = i.city GROUP BY c.name ORDER BY total DESC LIMIT 10',
    ),
  chunk * 10,
)
await measure('10 000 rows to objects', 20, () => db.query('SELECT * FROM items ORDER BY id LIMIT 10000'), 10_000)
await db.close()

for (const line of table(results)) console.log(line)
