// The playground as a visitor uses it: typing, keyboard, mouse.

import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { describe, test } from 'node:test'
import { csv, flights, flightsParquet } from './lib/files.mjs'
import { browser, root } from './lib/harness.mjs'

const sample = flights(5000)
const extra = new Map([['/data/flights-3m.parquet', flightsParquet(sample)]])
let page
const b = browser({
  site: 'www/dist',
  extra,
  ready: async first => {
    page = first
    await page.setViewportSize({ width: 1280, height: 860 })
    await openPage(page, 'www')
  },
})

async function openPage(page, db) {
  await page.goto(`${b.url}?db=${db}`)
  await page.waitForFunction(() => window.kalam)
  await page.evaluate(() => window.kalam.ready)
}

async function type(sql) {
  await page.fill('#sql', sql)
  await page.press('#sql', 'Control+Enter')
  await page.waitForFunction(() => !document.querySelector('#run').disabled)
}

const cells = () =>
  page
    .locator('#grid tbody tr:not(.spacer)')
    .evaluateAll(rows => rows.map(row => [...row.querySelectorAll('td:not(.index)')].map(cell => cell.textContent)))

test('it opens, and the foot tells about the database', async () => {
  assert.equal(await page.title(), 'www · KalamDB playground')
  assert.match(await page.textContent('#status'), /Ready.*IndexedDB.*on disk.*KalamDB \d+\.\d+\.\d+.*opened in/s)
  assert.match(await page.textContent('#tables'), /No tables yet/)
})

test('a query by keyboard shows rows, types, count and time', async () => {
  await type("SELECT 1 AS one, 'zwei' AS two, NULL AS three, TRUE AS four")
  assert.deepEqual(await cells(), [['1', 'zwei', 'NULL', 'true']])
  assert.match(await page.textContent('#grid thead'), /one\s*BIGINT.*two\s*TEXT/s)
  assert.match(await page.textContent('#result-head'), /^1 row · [\d.]+ m?s$/)
})

test('several statements: a tab each, the last rows in view; the side bar follows', async () => {
  await type(`CREATE TABLE Jottings (id INT PRIMARY KEY, body TEXT NOT NULL);
    INSERT INTO jottings VALUES (1, 'a; b'), (2, '<img src=x onerror=alert(1)>'); -- a comment; with a semicolon
    SELECT * FROM jottings ORDER BY id;`)
  assert.deepEqual(await cells(), [
    ['1', 'a; b'],
    ['2', '<img src=x onerror=alert(1)>'],
  ])
  assert.equal(await page.locator('.tab').count(), 3)
  await page.locator('.tab').nth(1).click()
  assert.match(await page.textContent('#result-head'), /^2 rows affected/)
  await page.locator('#tables details').first().waitFor()
  assert.match(await page.textContent('#tables'), /jottings.*id.*INT.*body.*TEXT/s)
})

test('only the selection runs', async () => {
  await page.fill('#sql', 'SELECT nonsense;\nSELECT 42 AS answer')
  await page.locator('#sql').evaluate(area => area.setSelectionRange(area.value.indexOf('\n') + 1, area.value.length))
  await page.press('#sql', 'Control+Enter')
  await page.waitForFunction(() => document.querySelector('#grid thead')?.textContent.includes('answer'))
  assert.deepEqual(await cells(), [['42']])
})

describe('errors', () => {
  test('message, code and SQLSTATE stand below the editor, and the place is marked', async () => {
    await type('SELECT 1;\n\nSELECT *\nFROM jottings\nWHERE id = = 1')
    const error = await page.textContent('#query-error [role=alert]')
    assert.match(error, /SYNTAX_ERROR/)
    assert.match(error, /SQLSTATE 42601/)
    assert.match(error, /line 5, column 12/)
    assert.equal(await page.textContent('#editor-paint .wrong'), '=')
    mkdirSync(`${root}artifacts`, { recursive: true })
    await page.screenshot({ path: `${root}artifacts/www-error.png` })
  })

  test('its position leads there', async () => {
    await page.click('#query-error .link')
    const chosen = await page.locator('#sql').evaluate(area => area.value.slice(area.selectionStart, area.selectionEnd))
    assert.equal(chosen, '=')
  })

  test('it goes when the text is edited', async () => {
    await page.press('#sql', 'Delete')
    assert.equal(await page.locator('#query-error [role=alert]').count(), 0)
    assert.equal(await page.locator('#editor-paint .wrong').count(), 0)
  })

  test('an unknown table is named', async () => {
    await type('SELECT * FROM jotting')
    assert.match(await page.textContent('#query-error'), /jotting.*TABLE_NOT_FOUND.*42P01/s)
  })
})

test('a result of 100 000 rows is drawn in part, and the end is there', async () => {
  await type(`WITH d(x) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9))
    SELECT a.x + 10*b.x + 100*c.x + 1000*e.x + 10000*f.x AS n FROM d a, d b, d c, d e, d f ORDER BY n`)
  assert.match(await page.textContent('#result-head'), /^100,000 rows/)
  assert.ok((await cells()).length < 100)
  await page.locator('#grid').evaluate(grid => grid.scrollTo(0, grid.scrollHeight))
  await page.waitForFunction(() => document.querySelector('#grid tbody')?.textContent.includes('99999'))
  assert.deepEqual((await cells()).at(-1), ['99999'])
})

test('more rows than the page asks for are cut, and it says so', async () => {
  await type(`WITH d(x) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9))
    SELECT a.x FROM d a, d b, d c, d e, d f, d g`)
  assert.match(await page.textContent('#result-head'), /^the first 100,000 rows; there are more/)
})

describe('the sample', () => {
  test('loads with progress, fills the side bar, and its examples run', async () => {
    await page.click('#sample-load')
    await page.waitForFunction(() => !document.querySelector('#sample-note').hidden)
    assert.match(await page.textContent('#sample-note'), /^8,376 rows in /)
    await page.waitForFunction(() =>
      /airports.*iata.*flights.*origin/s.test(document.querySelector('#tables').textContent),
    )
    const titles = await page.locator('.example').count()
    for (let at = 0; at < titles; at++) {
      await page.locator('.example').nth(at).click()
      await page.waitForFunction(() => !document.querySelector('#run').disabled)
      assert.equal(await page.textContent('#query-error'), '', `example ${at + 1}`)
    }
    await page.screenshot({ path: `${root}artifacts/www.png` })
  })

  test('what was loaded is what the file holds', async () => {
    await type('SELECT date, delay, distance, origin, destination FROM flights WHERE delay < 0 ORDER BY date LIMIT 3')
    const low = sample.filter(row => row.delay !== null && row.delay < 0n && row.origin !== 'SFO').slice(0, 3)
    const text = row => csv(Object.keys(row), [row]).split('\n')[1].replace('T', ' ')
    assert.deepEqual(
      (await cells()).map(row => row.join(',')),
      low.map(text),
    )
  })

  test('a second load asks first', async () => {
    await page.click('#sample-load')
    assert.match(await page.textContent('#sample-load'), /^Replace airports and flights\?$/)
    await page.click('h1')
    await page.locator('#sample-load').blur()
    assert.equal(await page.textContent('#sample-load'), 'Load again')
  })
})

test('a reload finds everything again, the text in the editor too', async () => {
  await page.fill('#sql', 'SELECT count(*) AS n FROM flights')
  await page.reload()
  await page.waitForFunction(() => window.kalam)
  await page.evaluate(() => window.kalam.ready)
  await page.press('#sql', 'Control+Enter')
  await page.waitForFunction(() => document.querySelector('#grid thead th'))
  assert.deepEqual(await cells(), [['5000']])
})

test('a second tab says why it cannot open, and can try again', async () => {
  const other = await b.newPage('?db=www')
  await other.waitForSelector('#grid [role=alert]')
  assert.match(await other.textContent('#grid'), /DATABASE_LOCKED/)
  await page.close()
  await other.click('#grid .link')
  await other.waitForFunction(() => document.querySelector('#tables').textContent.includes('flights'))
  page = other
})
