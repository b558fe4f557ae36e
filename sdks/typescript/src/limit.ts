// What may end a call early: the caller's signal and the time limit, as one thing.
//
// Invariant: the first of the two decides, once, and `dispose` leaves neither a timer nor a listener behind.

import { KalamError } from './errors.js'
import { invalid } from './options.js'

/** setTimeout takes no more (24.8 days); a longer limit is none. */
const MAX_TIMER_MS = 2 ** 31 - 1

/** The limit of one call. */
export class Limit {
  /** Why the call must end, once that is so. */
  error: KalamError | undefined
  private timer: ReturnType<typeof setTimeout> | undefined
  private readonly listeners = new Set<(error: KalamError) => void>()
  private readonly onAbort = (): void => {
    const cause: unknown = this.signal?.reason
    this.stop(new KalamError({ code: 'CANCELLED', message: 'the call was cancelled by its signal', cause }))
  }

  /**
   * @param signal the caller's signal
   * @param timeoutMs time limit in milliseconds, counted from now
   */
  constructor(
    private readonly signal?: AbortSignal,
    readonly timeoutMs?: number,
  ) {
    if (timeoutMs !== undefined && !(typeof timeoutMs === 'number' && timeoutMs > 0)) {
      throw invalid(`timeoutMs is ${String(timeoutMs)}, expected a number of milliseconds above 0`)
    }
    if (signal?.aborted) {
      this.onAbort()
      return
    }
    signal?.addEventListener('abort', this.onAbort, { once: true })
    if (timeoutMs !== undefined && timeoutMs <= MAX_TIMER_MS) {
      const message = `the call ran into its time limit of ${timeoutMs} ms`
      this.timer = setTimeout(() => this.stop(new KalamError({ code: 'TIMEOUT', message })), timeoutMs)
    }
  }

  /** Throws if the call must end. */
  check(): void {
    if (this.error !== undefined) throw this.error
  }

  /** Calls back when the call must end; at once if that is so already. */
  onStop(listener: (error: KalamError) => void): void {
    if (this.error !== undefined) listener(this.error)
    else this.listeners.add(listener)
  }

  /** What the promise gives, or the limit's error if that comes first. */
  async race<T>(promise: Promise<T>): Promise<T> {
    this.check()
    let listener: ((error: KalamError) => void) | undefined
    const stopped = new Promise<never>((_, reject) => {
      listener = reject
      this.listeners.add(reject)
    })
    try {
      return await Promise.race([promise, stopped])
    } finally {
      if (listener !== undefined) this.listeners.delete(listener)
    }
  }

  /** The call has ended. */
  dispose(): void {
    clearTimeout(this.timer)
    this.signal?.removeEventListener('abort', this.onAbort)
    this.listeners.clear()
  }

  private stop(error: KalamError): void {
    if (this.error !== undefined) return
    this.error = error
    clearTimeout(this.timer)
    for (const listener of [...this.listeners]) listener(error)
  }
}
