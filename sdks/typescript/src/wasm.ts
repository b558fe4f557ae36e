// Getting the engine's wasm: where it is, how it is compiled, and the guard around a running instance.
//
// Invariant: an instance that trapped is never entered again. A panic unwinds nothing in wasm, so its memory is in an
// unknown state; the guard reports the first trap and turns every later call into a no-op.

import { KalamError } from './errors.js'
import type { ConnectProgress } from './types.js'

/** An address or a compiled module: the forms that cross to a worker. */
export type ResolvedWasm = string | WebAssembly.Module

type OnProgress = (progress: ConnectProgress) => void

/** The part of Node's `process` that is used; read at run time, so that no bundler follows it. */
interface NodeProcess {
  versions?: { node?: string }
  getBuiltinModule?(id: 'node:fs/promises'): {
    readFile(path: URL): Promise<Uint8Array<ArrayBuffer>>
    open(path: URL): Promise<{
      read(buffer: Uint8Array, offset: number, length: number): Promise<{ bytesRead: number }>
      stat(): Promise<{ size: number }>
      close(): Promise<void>
    }>
  }
}

/** Node's file system, where there is one (Node, Deno, Bun). */
export function nodeFiles(): ReturnType<NonNullable<NodeProcess['getBuiltinModule']>> | undefined {
  const { process } = globalThis as { process?: NodeProcess }
  return process?.versions?.node === undefined ? undefined : process.getBuiltinModule?.('node:fs/promises')
}

/** The address of the engine's wasm in this package, in the form that bundlers recognise. */
export function defaultWasmUrl(): string {
  return new URL('./wasm/kalamdb_bg.wasm', import.meta.url).href
}

// One compilation per address and thread; a failed one may be tried again.
const compiled = new Map<string, Promise<WebAssembly.Module>>()

/** The compiled engine. Fetches or reads it when given an address, and then compiles it once per address. */
export function compileEngine(source: ResolvedWasm | undefined, onProgress?: OnProgress): Promise<WebAssembly.Module> {
  if (source instanceof WebAssembly.Module) return Promise.resolve(source)
  const url = source ?? defaultWasmUrl()
  let module = compiled.get(url)
  if (module === undefined) {
    module = load(url, onProgress)
    compiled.set(url, module)
    module.catch(() => compiled.delete(url))
  }
  return module
}

async function load(url: string, onProgress: OnProgress | undefined): Promise<WebAssembly.Module> {
  const files = url.startsWith('file:') ? nodeFiles() : undefined
  if (files !== undefined) {
    let bytes: Uint8Array<ArrayBuffer>
    try {
      bytes = await files.readFile(new URL(url))
    } catch (cause) {
      throw unavailable(url, (cause as Error).message, cause)
    }
    onProgress?.({ phase: 'compile', bytes: bytes.length, totalBytes: bytes.length })
    return compileBytes(bytes, url)
  }
  let response: Response
  try {
    response = await fetch(url)
  } catch (cause) {
    throw unavailable(url, (cause as Error).message, cause)
  }
  return compileResponse(response, onProgress)
}

/** Compiles a response while it arrives. */
export async function compileResponse(response: Response, onProgress?: OnProgress): Promise<WebAssembly.Module> {
  const url = response.url || 'the given response'
  if (!response.ok) throw unavailable(url, `the server answered ${response.status} ${response.statusText}`.trim())
  const type = response.headers.get('content-type') ?? ''
  const streaming = type.startsWith('application/wasm') && typeof WebAssembly.compileStreaming === 'function'
  // The copy is counted and the original compiled: browsers keep compiled code only for responses they know.
  if (onProgress !== undefined && response.body !== null) void count(response.clone(), onProgress)
  if (streaming) {
    try {
      return await WebAssembly.compileStreaming(response)
    } catch (cause) {
      throw uncompilable(url, cause)
    }
  }
  let bytes: Uint8Array<ArrayBuffer>
  try {
    bytes = new Uint8Array(await response.arrayBuffer())
  } catch (cause) {
    throw unavailable(url, (cause as Error).message, cause)
  }
  return compileBytes(bytes, url, type)
}

async function count(copy: Response, onProgress: OnProgress): Promise<void> {
  const length = copy.headers.has('content-encoding') ? null : copy.headers.get('content-length')
  const totalBytes = length === null ? undefined : Number(length)
  let bytes = 0
  try {
    const reader = (copy.body as ReadableStream<Uint8Array>).getReader()
    for (;;) {
      const { done, value } = await reader.read()
      if (done) break
      bytes += value.length
      onProgress({ phase: 'download', bytes, totalBytes })
    }
    onProgress({ phase: 'compile', bytes, totalBytes })
  } catch {
    // A broken download is reported by the compilation that reads the same bytes.
  }
}

async function compileBytes(bytes: Uint8Array<ArrayBuffer>, url: string, type = ''): Promise<WebAssembly.Module> {
  if (bytes[0] !== 0 || bytes[1] !== 0x61 || bytes[2] !== 0x73 || bytes[3] !== 0x6d) {
    throw unavailable(url, `what is there is not a wasm module${type && ` (content type ${type})`}`)
  }
  try {
    return await WebAssembly.compile(bytes)
  } catch (cause) {
    throw uncompilable(url, cause)
  }
}

function unavailable(url: string, what: string, cause?: unknown): KalamError {
  return new KalamError({
    code: 'CONNECTION_FAILED',
    message: `the engine's wasm could not be loaded from ${url}: ${what}`,
    hint: 'Serve kalamdb_bg.wasm from the package and pass its address as `wasm` if the bundler does not.',
    cause,
  })
}

function uncompilable(url: string, cause: unknown): KalamError {
  const message = (cause as Error).message
  const csp = /unsafe-eval|content security/i.test(message)
  return new KalamError({
    code: 'CONNECTION_FAILED',
    message: `the engine's wasm from ${url} could not be compiled: ${message}`,
    hint: csp ? "The page's Content-Security-Policy needs 'wasm-unsafe-eval' in script-src." : undefined,
    retryable: !csp,
    cause,
  })
}

/** What a call gives after a trap. Bindings that take several results apart find none in it, and as a number it is 0. */
const NOTHING: readonly unknown[] = Object.freeze([])

/**
 * Wraps the exports of an instance; see the module's comment. The outermost frame swallows the trap after it was
 * reported: it may stand in a timer or an event handler, where nobody could catch it and Node would end the process.
 *
 * @param onTrap told about the first trap, once no frame of the instance is left
 */
export function guardExports(exports: WebAssembly.Exports, onTrap: (error: Error) => void): WebAssembly.Exports {
  let trap: Error | undefined
  let reported = false
  let depth = 0
  const guarded: WebAssembly.Exports = {}
  for (const [name, value] of Object.entries(exports)) {
    if (typeof value !== 'function') {
      guarded[name] = value
      continue
    }
    guarded[name] = (...args: unknown[]): unknown => {
      if (trap !== undefined) return NOTHING
      depth++
      try {
        return value(...args)
      } catch (error) {
        // Nothing is called here: after a stack overflow there may be no room for it. A RangeError that comes out of
        // wasm is such an overflow (or has unwound its frames all the same).
        if (error instanceof WebAssembly.RuntimeError || error instanceof RangeError) trap ??= error
        // Frames of wasm above this one must not go on with a made-up result.
        if (trap === undefined || depth > 1) throw error
        return NOTHING
      } finally {
        depth--
        // Here and not above: a frame in between may have caught the exception.
        if (depth === 0 && trap !== undefined && !reported) {
          reported = true
          onTrap(trap)
        }
      }
    }
  }
  return guarded
}
