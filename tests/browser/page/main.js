// A page that holds the package and nothing else; the tests bring their own code.

import * as kalamdb from 'kalamdb'

window.kalamdb = kalamdb

/** Runs `work`; gives `{ value }`, or `{ error }` with the error's plain form and whether it is a KalamError. */
window.attempt = async work => {
  try {
    return { value: await work() }
  } catch (error) {
    const typed = error instanceof kalamdb.KalamError
    return { error: typed ? { typed, ...error.toJSON() } : { typed, message: String(error?.stack ?? error) } }
  }
}

/** Opens a database; waits while a page that has just gone still holds it. */
window.connectWhenFree = async options => {
  const end = performance.now() + 20_000
  for (;;) {
    try {
      return await kalamdb.connect(options)
    } catch (error) {
      if (error.code !== 'DATABASE_LOCKED' || performance.now() > end) throw error
      await new Promise(done => setTimeout(done, 50))
    }
  }
}

window.ready = true
