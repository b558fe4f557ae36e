// The real engine in the caller's thread: Node, workers of the app, tests. Loaded on demand, so that a page that uses
// the worker does not carry the bindings twice.

import { spawnInline } from './inline-host.js'
import { realEnvironment } from './instance.js'
import type { Receiver, Transport } from './transport.js'

/** Starts an engine here. */
export function startInline(receiver: Receiver): Transport {
  return spawnInline(receiver, realEnvironment)
}
