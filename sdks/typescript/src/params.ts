// What callers pass in, checked before it leaves their thread.
//
// Invariant: a parameter travels as the value it is. It is never turned into text, and what cannot be a value
// (undefined, functions, invalid dates, a Map, a promise that nobody awaited) fails here, with its place, instead of
// becoming NULL or `{}` on the way.

import { KalamError } from './errors.js'
import { invalid } from './options.js'
import { isOpaque, show } from './packed/encode.js'
import { here, is, isForeign } from './realm.js'
import { microsecondsOf, Timestamp } from './timestamp.js'
import type { Param, Params } from './types.js'

/** Checks a statement. */
export function checkSql(sql: unknown): string {
  if (typeof sql === 'string') return sql
  throw invalid(`sql is ${show(sql)}, expected a string`)
}

/** Checks parameters: an array for `$1…`, a plain object for `$name`, or nothing. */
export function checkParams(params: unknown): Params | undefined {
  if (params === undefined || params === null) return undefined
  if (Array.isArray(params)) {
    // Not forEach: it passes over holes, which are undefined values too.
    for (let i = 0; i < params.length; i++) checkParam(params[i], `$${i + 1}`)
    // A copy: it leaves at the end of this turn, and the caller may change the array before that.
    return params.some(isOdd) ? params.map(onWire) : params.slice()
  }
  if (!isPlainObject(params)) {
    throw new KalamError({
      code: 'PARAMETER_TYPE',
      message: `params is ${show(params)}, expected an array for $1… or an object for $name`,
    })
  }
  const entries = Object.entries(params)
  for (const [name, value] of entries) checkParam(value, `$${name}`)
  if (!entries.some(([, value]) => isOdd(value))) return { ...params } as Params
  return Object.fromEntries(entries.map(([name, value]) => [name, onWire(value)])) as Params
}

const isOdd = (value: unknown): boolean => value instanceof Timestamp || isForeign(value)

/**
 * Structured cloning would make a plain Date of a Timestamp: its microseconds travel as a BigInt64Array of one. In one
 * thread nothing is cloned, so what another realm made is made anew.
 */
function onWire(value: unknown): Param {
  if (value instanceof Timestamp) return BigInt64Array.of(microsecondsOf(value) ?? 0n) as unknown as Param
  return (isForeign(value) ? here(value) : value) as Param
}

function checkParam(value: unknown, place: string): void {
  const invalidDate = is(value, 'Date') && microsecondsOf(value) === undefined
  const numbers = ArrayBuffer.isView(value) && !(is(value, 'Uint8Array') || is(value, 'Float32Array'))
  const nothing = value === undefined || typeof value === 'function' || typeof value === 'symbol'
  if (!invalidDate && !numbers && !nothing && !isOpaque(value)) return
  let hint: string | undefined
  if (value === undefined) hint = 'Pass null for NULL.'
  else if (Object.prototype.toString.call(value) === '[object Promise]') hint = 'Await it first.'
  else if (numbers) hint = 'Pass a Float32Array for EMBEDDING, a Uint8Array for BYTES, an array for = ANY ($1).'
  throw new KalamError({
    code: 'PARAMETER_TYPE',
    message: `parameter ${place} is ${invalidDate ? 'an invalid Date' : show(value)}, expected a value`,
    hint,
  })
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  // Objects of another realm (a frame, a vm context) are plain too: their prototype has none itself.
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

/** Turns a tagged template into a statement and its parameters. */
export function templateToSql(strings: TemplateStringsArray, values: readonly unknown[]): string {
  if (!Array.isArray(strings) || !Array.isArray(strings.raw)) {
    throw invalid('db.sql is a template tag, not a function', 'Write db.sql`SELECT …`, or use db.query(text, params).')
  }
  let sql = ''
  for (let i = 0; i < strings.length; i++) {
    // A literal with an invalid escape has no cooked form.
    sql += strings[i] ?? strings.raw[i]
    if (i < values.length) sql += `$${i + 1}`
  }
  return sql
}

/** Statements that change nothing, told by their first word; anything doubtful counts as a change. */
export function isReadOnly(sql: string): boolean {
  const bare = sql.replace(/^(\s|--[^\n]*(\n|$)|\/\*[\s\S]*?\*\/)+/, '')
  return /^(select|show|describe|values|explain)\b/i.test(bare) && !/;\s*\S/.test(bare)
}
