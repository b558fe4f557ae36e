// Starts the system's Chromium and drives it with playwright-core over its debugging port.
//
// Invariant: whoever calls `launch` owns the whole process group of the browser, so that `kill` is what a power cut
// is to the page (SIGKILL for every process at once, nothing flushed on the way out), and so that nothing outlives
// this process: an exit hook kills every group that is still alive and removes the profiles. Playwright's own launcher hides the process id
// and ends a browser politely, which is exactly what the crash tests must not do.

import { spawn } from 'node:child_process'
import { accessSync, constants, rmSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const browserTests = fileURLToPath(new URL('../../tests/browser/package.json', import.meta.url))

/** playwright-core, from the one place that pins it (tests/browser). */
export function playwright() {
  try {
    return createRequire(browserTests)('playwright-core')
  } catch (cause) {
    throw new Error('playwright-core is not installed: run `npm ci` in tests/browser (or `make setup`)', { cause })
  }
}

/** The Chromium to run: $CHROMIUM, or the first of the usual names on the PATH. */
export function chromiumPath() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM
  for (const name of ['chromium', 'chromium-browser', 'google-chrome', 'chrome']) {
    for (const folder of (process.env.PATH ?? '').split(delimiter)) {
      const file = join(folder, name)
      try {
        accessSync(file, constants.X_OK)
        return file
      } catch {
        // Not here: look further.
      }
    }
  }
  throw new Error('no Chromium found: install it (Debian: apt install chromium) or set CHROMIUM to its path')
}

const args = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--no-default-browser-check',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
  '--disable-crash-reporter',
  // A page in the background must work on at full speed: tests open several at once.
  '--disable-background-timer-throttling',
  '--disable-backgrounding-occluded-windows',
  '--disable-renderer-backgrounding',
  '--remote-debugging-port=0',
]

const groups = new Set()
const profiles = new Set()
const killAll = () => {
  for (const pid of groups) killGroup(pid)
  for (const folder of profiles) rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 })
}
process.on('exit', killAll)
for (const [signal, number] of [
  ['SIGINT', 2],
  ['SIGTERM', 15],
  ['SIGHUP', 1],
]) {
  process.on(signal, () => {
    killAll()
    // Whoever listens for the signal too decides what happens next; otherwise it ends the process, as ever.
    if (process.listenerCount(signal) === 1) process.exit(128 + number)
  })
}

function killGroup(pid) {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // The group is gone already.
  }
  groups.delete(pid)
}

/** A fresh folder for a profile; it goes with `removeProfile`, or at the latest with this process. */
export async function newProfile() {
  const folder = await mkdtemp(join(tmpdir(), 'kalamdb-profile-'))
  profiles.add(folder)
  return folder
}

/** Removes a profile folder; a dying browser may still be writing, so this tries a few times. */
export async function removeProfile(folder) {
  await rm(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 })
  profiles.delete(folder)
}

/**
 * Starts Chromium on a profile.
 *
 * @param {{ profile: string, args?: string[] }} options
 * @returns {Promise<{ browser: import('playwright-core').Browser, context: import('playwright-core').BrowserContext,
 *   pid: number, close: () => Promise<void>, kill: () => Promise<void> }>}
 *   `close` ends it as a user would; `kill` ends it as a power cut would. Both return when it is gone.
 */
export async function launch({ profile, args: more = [] }) {
  const portFile = join(profile, 'DevToolsActivePort')
  await rm(portFile, { force: true })
  const child = spawn(chromiumPath(), [...args, ...more, `--user-data-dir=${profile}`, 'about:blank'], {
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let stderr = ''
  child.stderr.on('data', chunk => {
    stderr = (stderr + chunk).slice(-8000)
  })
  const exited = new Promise(resolve => child.once('exit', resolve))
  let gone = false
  exited.then(() => {
    gone = true
  })
  await new Promise((resolve, reject) => {
    child.once('spawn', resolve)
    child.once('error', reject)
  })
  groups.add(child.pid)

  const endpoint = await until(async () => {
    if (gone) throw new Error(`Chromium ended while starting:\n${stderr}`)
    const [port, path] = (await readFile(portFile, 'utf8').catch(() => '')).split('\n')
    return port && path ? `ws://127.0.0.1:${port}${path}` : undefined
  }, 60_000)
  if (!endpoint) {
    killGroup(child.pid)
    throw new Error(`Chromium did not open its debugging port within 60 s:\n${stderr}`)
  }

  const browser = await playwright().chromium.connectOverCDP(endpoint)
  const context = browser.contexts()[0]
  return {
    browser,
    context,
    pid: child.pid,
    async close() {
      if (!gone) {
        const session = await browser.newBrowserCDPSession().catch(() => undefined)
        await session?.send('Browser.close').catch(() => {})
        await Promise.race([exited, sleep(20_000, undefined, { ref: false })])
      }
      killGroup(child.pid)
      await exited
      await browser.close().catch(() => {})
    },
    async kill() {
      killGroup(child.pid)
      await exited
      await browser.close().catch(() => {})
    },
  }
}

async function until(probe, limit) {
  const end = Date.now() + limit
  while (Date.now() < end) {
    const value = await probe()
    if (value !== undefined) return value
    await sleep(25)
  }
  return undefined
}
