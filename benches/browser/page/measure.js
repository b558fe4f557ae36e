// Times in turns. Invariant: engines are measured alternately in one run, so a noisy moment hits all of them, and
// the median of the rounds counts.

/**
 * What passes before a turn where someone works on after the answer: PGlite writes to IndexedDB for tens of milliseconds
 * in the thread that all others need, LevelDB compacts what it was given.
 */
export const SETTLE_MS = 100

/** Median of numbers. */
export function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)]
}

/** Milliseconds that a piece of work takes. */
export async function time(work) {
  const start = performance.now()
  await work()
  return performance.now() - start
}

/**
 * Runs every contestant's work in turns.
 *
 * @param {Record<string, (n: number, given: unknown) => Promise<unknown>>} contestants what each does; `n` never repeats
 * @param {{ rounds?: number, perRound?: number, settleMs?: number, given?: (n: number) => unknown }} [options]
 *   operations per round are timed together; `settleMs` passes before each turn, so that what the one before left to do
 *   in the background is not timed; `given` makes what an operation works on, before the clock runs
 * @returns {Promise<Record<string, number>>} milliseconds per operation
 */
export async function inTurns(contestants, { rounds = 9, perRound = 1, settleMs = 0, given } = {}) {
  const names = Object.keys(contestants)
  const times = Object.fromEntries(names.map(name => [name, []]))
  let n = 0
  for (let round = -1; round < rounds; round++) {
    // Who begins changes from round to round.
    for (let i = 0; i < names.length; i++) {
      const name = names[(i + round + names.length) % names.length]
      const first = n
      n += perRound
      if (settleMs > 0) await new Promise(resolve => setTimeout(resolve, settleMs))
      const inputs = Array.from({ length: perRound }, (_, k) => given?.(first + k))
      const ms = await time(async () => {
        for (let k = 0; k < perRound; k++) await contestants[name](first + k, inputs[k])
      })
      // The first round warms up.
      if (round >= 0) times[name].push(ms / perRound)
    }
  }
  return Object.fromEntries(names.map(name => [name, median(times[name])]))
}
