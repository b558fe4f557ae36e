// The one check of options.
//
// Invariant: an option that is not understood is an error. Passing over `{ durabilty: 'strict' }` would promise less than
// was asked for, and a callback that is none would fail where nobody can catch it.

import { KalamError } from './errors.js'
import type { CallOptions, Durability } from './types.js'

/** What every call takes. */
const CALL: readonly string[] = ['signal', 'timeoutMs', 'durability']

const DURABILITIES: readonly unknown[] = ['memory', 'relaxed', 'strict', undefined]

/** An option, or an argument, that cannot be what it is. */
export function invalid(message: string, hint?: string): KalamError {
  return new KalamError({ code: 'INVALID_OPTION', message, hint })
}

/** Checks the names of options, and the values of those that several calls have. */
export function checkOptions(options: object, names: readonly string[]): void {
  if (typeof options !== 'object' || options === null)
    throw invalid(`options is ${String(options)}, expected an object`)
  for (const name of Object.keys(options)) {
    if (!names.includes(name)) throw invalid(`unknown option '${name}'`, `Options: ${names.join(', ')}.`)
  }
  const { onProgress, signal, durability } = options as {
    onProgress?: unknown
    signal?: AbortSignal
    durability?: unknown
  }
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    throw invalid(`onProgress is ${typeof onProgress}, expected a function`)
  }
  if (signal !== undefined && typeof signal.addEventListener !== 'function') {
    throw invalid(`signal is ${typeof signal}, expected an AbortSignal`)
  }
  if (!DURABILITIES.includes(durability)) {
    throw invalid(`durability is '${String(durability)}', expected 'memory', 'relaxed' or 'strict'`)
  }
}

/** Checks the options of a call, `more` beside those that every call takes; gives the durability, if there is one. */
export function callOptions(
  options: CallOptions | undefined,
  more: readonly string[] = [],
): { durability?: Durability } {
  if (options === undefined || options === null) return {}
  checkOptions(options, [...CALL, ...more])
  return options.durability === undefined ? {} : { durability: options.durability }
}

/** The options of a later part of a call: what the parts before took is gone from the time limit. */
export function rest(options: CallOptions | undefined, started: number): CallOptions | undefined {
  if (options?.timeoutMs === undefined) return options
  return { ...options, timeoutMs: Math.max(1, options.timeoutMs - (Date.now() - started)) }
}
