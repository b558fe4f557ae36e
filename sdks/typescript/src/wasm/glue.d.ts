// Types of dist/wasm/glue.js, which scripts/build.mjs makes from pkg/kalamdb.js: the same bindings inside a function,
// so that every call gives an instance of its own and a stopped one can be replaced.

import type { Surface } from '../engine/surface.js'

export interface Glue extends Surface {
  /** Instantiates the module; must be awaited before anything else is touched. */
  init(options: { module_or_path: WebAssembly.Module }): Promise<unknown>
}

/**
 * @param guard given the instance's exports, returns what the bindings use in their place
 */
export function createGlue(guard: (exports: WebAssembly.Exports) => WebAssembly.Exports): Glue
