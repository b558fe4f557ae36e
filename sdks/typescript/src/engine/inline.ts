// A host in the caller's thread: Node, workers of the app, tests. Loaded on demand, so that a page that uses the worker
// does not carry the bindings twice.

import type { HostEnvironment } from './host.js'
import { EngineHost } from './host.js'
import { realEnvironment } from './instance.js'
import type { Receiver, Transport } from './transport.js'

/** Starts a host here. Messages are plain calls: nothing is copied. */
export function spawnInline(receiver: Receiver, environment: HostEnvironment = realEnvironment): Transport {
  let ended = false
  const host = new EngineHost(message => {
    if (!ended) receiver.message(message)
  }, environment)
  return {
    remote: false,
    post: message => host.receive(message),
    terminate: () => {
      ended = true
    },
  }
}
