// One browser on one profile for a test file, and a page with the packed package in it.
//
// Invariant: everything a test looks at comes through the packed package in a real page; Node only orders and
// compares. A page error or an unhandled rejection that no test asked for fails the file.

import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { after, before } from 'node:test'
import { fileURLToPath } from 'node:url'
import { launch, newProfile, removeProfile } from '../../../scripts/lib/chromium.mjs'
import { serve } from '../../../scripts/lib/serve.mjs'

/** The repository's root, with a slash. */
export const root = fileURLToPath(new URL('../../../', import.meta.url))

/**
 * Registers the browser of a test file: started before its tests, ended after them.
 *
 * @param {{ site?: string, extra?: Map<string, Uint8Array | string>, ready?: (page) => Promise<void> }} [options] the
 *   built page to serve, by default the test page; files served from memory beside it; what to do before the first
 *   test (Node 20 runs the root's `before` hooks side by side, so a file must not have a second one).
 */
export function browser({ site = 'tests/browser/dist', extra = new Map(), ready } = {}) {
  const box = { url: '', profile: '', chromium: undefined, page: undefined, errors: [], open, restart, newPage }

  before(async () => {
    const folder = `${root}${site}`
    assert.ok(existsSync(`${folder}/index.html`), `${site} is not built: npm run build in tests/browser`)
    box.server = await serve(folder, { extra })
    box.url = box.server.url
    box.profile = await newProfile()
    await open()
    await ready?.(box.page)
  })
  after(async () => {
    await box.chromium?.close()
    await box.server?.close()
    if (box.profile) await removeProfile(box.profile)
    assert.deepEqual(box.errors, [], 'errors of the page that nobody caught')
  })

  /** Starts Chromium on the profile, with a page. */
  async function open() {
    box.chromium = await launch({ profile: box.profile })
    box.page = await newPage()
  }

  /** Ends the browser, politely or by SIGKILL, and starts it again on the same profile. */
  async function restart({ kill = false } = {}) {
    if (kill) await box.chromium.kill()
    else await box.chromium.close()
    await open()
  }

  async function newPage(path = '') {
    const page = await box.chromium.context.newPage()
    page.on('pageerror', error => box.errors.push(String(error?.stack ?? error)))
    if (path !== undefined) await page.goto(box.url + path)
    if (site === 'tests/browser/dist') await page.waitForFunction(() => window.ready)
    return page
  }

  return box
}

/** Asserts that an outcome of `attempt` is a typed error, whole; gives it. */
export function failsWith(outcome, code, { message, position } = {}) {
  assert.ok(outcome.error, `expected ${code}, got ${inspect(outcome.value)}`)
  const { error } = outcome
  assert.ok(error.typed, `expected a KalamError, got ${error.message}`)
  const codes = [code].flat()
  assert.ok(codes.includes(error.code), `expected ${codes.join(' or ')}, got ${error.code}: ${error.message}`)
  assert.match(error.sqlstate, /^[0-9A-Z]{5}$/)
  assert.ok(error.message.length > 0, 'an error without a message')
  assert.doesNotMatch(error.message, /panicked|unreachable|RuntimeError|DataFusion error|External error/)
  if (message) assert.match(error.message, message)
  if (position) assert.deepEqual(error.position, position)
  return error
}

function inspect(value) {
  return JSON.stringify(value, (_, part) => (typeof part === 'bigint' ? `${part}n` : part))
}
