// Ways to a host: a worker of its own, or this thread.
//
// Invariant: a transport reports its death at most once and only if nobody ended it, and after its end nothing arrives.

import { KalamError } from '../errors.js'
import type { FromHost, ToHost } from './protocol.js'

/** Told about what comes from the host. */
export interface Receiver {
  message(message: FromHost | readonly FromHost[]): void
  /** The host is gone or cannot be understood any more. */
  died(error: KalamError): void
}

/** A way to a host. */
export interface Transport {
  /** Whether messages are copied to another thread, where buffers can be transferred. */
  readonly remote: boolean
  /** Sends; throws a DataCloneError for what cannot be cloned. */
  post(message: ToHost | readonly ToHost[], transfer: Transferable[]): void
  /** Ends the host. */
  terminate(): void
}

/** Starts a host and connects it to a receiver. */
export type Spawn = (receiver: Receiver) => Transport | Promise<Transport>

/** A host in a dedicated worker, from the file in this package. */
export const spawnWorker: Spawn = receiver =>
  // Bundlers follow exactly this form.
  overWorker(new Worker(new URL('../worker.js', import.meta.url), { type: 'module' }), receiver)

/** A host in a worker that the caller made. */
export function overWorker(worker: Worker, receiver: Receiver): Transport {
  let spoke = false
  let ended = false
  const end = (): void => {
    ended = true
    worker.onmessage = worker.onerror = worker.onmessageerror = null
    worker.terminate()
  }
  const die = (error: KalamError): void => {
    if (ended) return
    end()
    receiver.died(error)
  }
  worker.onmessage = (event: MessageEvent<FromHost | FromHost[]>) => {
    spoke = true
    if (!ended) receiver.message(event.data)
  }
  worker.onerror = (event: ErrorEvent) => {
    event.preventDefault?.()
    const what = event.message || 'its script could not be loaded'
    die(
      spoke
        ? new KalamError({ code: 'INTERNAL_ERROR', message: `the engine's worker failed: ${what}` })
        : new KalamError({
            code: 'CONNECTION_FAILED',
            message: `the engine's worker did not start: ${what}`,
            hint:
              'If the bundler does not follow `new Worker(new URL(…))`, pass `worker: () => new Worker(…)` with the ' +
              "entry 'kalamdb/worker'; with Vite's dev server add 'kalamdb' to optimizeDeps.exclude.",
          }),
    )
  }
  worker.onmessageerror = () =>
    die(new KalamError({ code: 'INTERNAL_ERROR', message: 'a message of the engine could not be read' }))
  return {
    remote: true,
    post: (message, transfer) => worker.postMessage(message, transfer),
    terminate: end,
  }
}
