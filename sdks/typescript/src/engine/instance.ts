// Instances of the real engine: the bindings that scripts/build.mjs makes from pkg/, behind the guard.

import { lockDatabase } from '../lock.js'
import { createGlue } from '../wasm/glue.js'
import { compileEngine, guardExports } from '../wasm.js'
import type { HostEnvironment } from './host.js'

/** What a host needs from its surroundings, for real. */
export const realEnvironment: HostEnvironment = {
  compile: compileEngine,
  lock: name => lockDatabase(name),
  async instantiate(module, onTrap) {
    const glue = createGlue(exports => guardExports(exports, onTrap))
    await glue.init({ module_or_path: module })
    return glue
  },
}
