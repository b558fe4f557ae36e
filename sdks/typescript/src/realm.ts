// What a value is, whichever realm made it.
//
// Invariant: `instanceof` tells classes of this realm only. Values of a frame, of Node itself beside a vm context (where
// Jest runs tests, so of every Buffer there) are told by the tag of their class, and become values of this realm before
// they go to the engine, which looks at the class.

interface Classes {
  ArrayBuffer: ArrayBuffer
  Blob: Blob
  Date: Date
  File: File
  Float32Array: Float32Array
  Float64Array: Float64Array
  ReadableStream: ReadableStream<Uint8Array>
  Response: Response
  URL: URL
  Uint8Array: Uint8Array
}

/** Whether a value is of a class. */
export function is<Name extends keyof Classes>(value: unknown, name: Name): value is Classes[Name] {
  return typeof value === 'object' && Object.prototype.toString.call(value) === `[object ${name}]`
}

/** Whether a value is of a class that the engine looks at, but of another realm. */
export function isForeign(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  if (value instanceof Uint8Array || value instanceof Date || value instanceof Float32Array) return false
  return is(value, 'Uint8Array') || is(value, 'Date') || is(value, 'Float32Array') || isForeignBuffer(value)
}

function isForeignBuffer(value: unknown): value is ArrayBuffer {
  return !(value instanceof ArrayBuffer) && is(value, 'ArrayBuffer')
}

/** The value as one of this realm. */
export function here<T>(value: T): T {
  const found: unknown = value
  if (is(found, 'Uint8Array')) return new Uint8Array(found.buffer, found.byteOffset, found.length) as T
  if (is(found, 'Float32Array')) return new Float32Array(found.buffer, found.byteOffset, found.length) as T
  if (is(found, 'Date')) return new Date(found.getTime()) as T
  return isForeignBuffer(found) ? (new Uint8Array(found) as T) : value
}

/** Bytes as a `Uint8Array` of this realm, if it is bytes. */
export function bytesIn(value: unknown): Uint8Array | undefined {
  if (value instanceof Uint8Array) return value
  if (is(value, 'Uint8Array')) return here(value)
  return is(value, 'ArrayBuffer') ? new Uint8Array(value) : undefined
}
