// The one check of durabilities.

import { KalamError } from './errors.js'
import type { Durability } from './types.js'

const DURABILITIES: readonly unknown[] = ['memory', 'relaxed', 'strict', undefined]

/** Checks a durability and gives it as a property, or nothing. */
export function durabilityOf(options: { durability?: Durability | undefined } | undefined): {
  durability?: Durability
} {
  const durability = options?.durability
  if (!DURABILITIES.includes(durability)) {
    throw new KalamError({
      code: 'INVALID_OPTION',
      message: `durability is '${String(durability)}', expected 'memory', 'relaxed' or 'strict'`,
    })
  }
  return durability === undefined ? {} : { durability }
}
