// A host in the caller's thread.
//
// Invariant: messages are plain calls in both directions and nothing is copied; after the end nothing arrives, and the
// database is given free.

import type { HostEnvironment } from './host.js'
import { EngineHost } from './host.js'
import type { Receiver, Transport } from './transport.js'

/** Starts a host here. */
export function spawnInline(receiver: Receiver, environment: HostEnvironment): Transport {
  let ended = false
  const host = new EngineHost(message => {
    if (!ended) receiver.message(message)
  }, environment)
  return {
    remote: false,
    post: message => host.receive(message),
    terminate: () => {
      ended = true
      host.dispose()
    },
  }
}
