// How much memory the engine may use, and for what.
//
// Invariant: one budget is shared out over rows that are not in segments yet, what was read of segments, and running
// queries; a table larger than it works, because rows beyond the first share are written out and cached ones dropped.

import type { EngineConfig } from './engine/surface.js'
import { invalid } from './options.js'
import { show } from './packed/encode.js'
import type { ConnectOptions } from './types.js'

const MB = 1 << 20
/** Where the device does not tell how much memory it has. */
const UNKNOWN_DEVICE = 640 * MB
const LEAST = 160 * MB
const MOST = 1024 * MB

/** An eighth of the device's memory, as far as it tells (browsers round it, and tell 8 GB at most). */
export function deviceBudget(): number {
  const gigabytes = (globalThis.navigator as { deviceMemory?: number } | undefined)?.deviceMemory
  if (gigabytes === undefined || !(gigabytes > 0)) return UNKNOWN_DEVICE
  return Math.min(MOST, Math.max(LEAST, Math.round((gigabytes * 1024 * MB) / 8)))
}

/**
 * The engine's limits: two tenths for hot rows, which are written out from one on, a tenth for the cache of segments, the
 * rest for queries.
 */
export function memoryLimits({
  memoryBudget,
  memoryLimit,
}: Pick<ConnectOptions, 'memoryBudget' | 'memoryLimit'>): Pick<
  EngineConfig,
  'memoryLimit' | 'hotLimit' | 'segmentCache'
> {
  for (const [name, value] of Object.entries({ memoryBudget, memoryLimit })) {
    if (value !== undefined && !(typeof value === 'number' && value > 0 && Number.isFinite(value))) {
      const found = typeof value === 'number' ? String(value) : show(value)
      throw invalid(`${name} is ${found}, expected a number of bytes above 0`)
    }
  }
  const budget = memoryBudget ?? deviceBudget()
  const tenth = Math.round(budget / 10)
  return { memoryLimit: memoryLimit ?? budget - 3 * tenth, hotLimit: 2 * tenth, segmentCache: tenth }
}
