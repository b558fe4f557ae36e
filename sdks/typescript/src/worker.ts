// Entry `kalamdb/worker`: the engine in a dedicated worker. It has no exports; `connect` talks to it by messages.

import { EngineHost } from './engine/host.js'
import { realEnvironment } from './engine/instance.js'
import type { FromHost, ToHost } from './engine/protocol.js'

/** The part of a dedicated worker's global scope that is used. */
interface Scope {
  postMessage(message: FromHost | readonly FromHost[], transfer: Transferable[]): void
  onmessage: ((event: MessageEvent<ToHost | ToHost[]>) => void) | null
}

const scope = globalThis as unknown as Scope
const host = new EngineHost((message, transfer) => scope.postMessage(message, transfer), realEnvironment)
scope.onmessage = event => host.receive(event.data)
