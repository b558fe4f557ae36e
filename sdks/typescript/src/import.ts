// Reading a source piece by piece into an importer of the engine, on the host's side.
//
// Invariant: all or nothing. Whatever ends an import early (a read that fails, an abort, an error of the engine)
// aborts the importer, and only `finish` makes rows visible.

import { joined } from './bytes.js'
import type { Importer, ImporterOptions, SessionOptions } from './engine/surface.js'
import { KalamError } from './errors.js'
import { invalid } from './options.js'
import { is } from './realm.js'
import type { Durability, ExecResult, ImportFormat, ImportProgress } from './types.js'
import { nodeFiles } from './wasm.js'

/** Pieces that go to the engine are between these sizes, the last one aside. */
const MIN_PIECE = 1 << 20
const MAX_PIECE = 4 << 20

/** Progress is told at most this often. */
const PROGRESS_MS = 100

/** A source that can be read: what is known about it, and its pieces. */
export interface OpenedSource {
  /** File name or path of the address, for detection. */
  name?: string | undefined
  contentType?: string | undefined
  totalBytes?: number | undefined
  /** The next piece, `undefined` at the end. */
  next(): Promise<Uint8Array | undefined>
  /** Gives up reading. */
  cancel?(): void
}

/** Where a source is, as the host sees it. */
export type SourcePlace =
  | { kind: 'url'; url: string }
  | { kind: 'blob'; blob: Blob; name?: string }
  | ({ kind: 'fed' } & OpenedSource)

/** Opens a source. Fails with `INVALID_DATA` when it is not there. */
export async function openSource(source: SourcePlace, signal?: AbortSignal): Promise<OpenedSource> {
  if (source.kind === 'fed') return source
  if (source.kind === 'blob') return openBlob(source.blob, source.name)
  const { url } = source
  const files = url.startsWith('file:') ? nodeFiles() : undefined
  try {
    if (files !== undefined) {
      const file = await files.open(new URL(url))
      const { size } = await file.stat()
      return {
        name: new URL(url).pathname,
        totalBytes: size,
        async next() {
          const piece = new Uint8Array(MAX_PIECE)
          const { bytesRead } = await file.read(piece, 0, MAX_PIECE)
          if (bytesRead > 0) return piece.subarray(0, bytesRead)
          await file.close()
          return undefined
        },
        cancel: () => void file.close(),
      }
    }
    return openResponse(await fetch(url, { signal: signal ?? null }))
  } catch (cause) {
    throw unreadable(url, cause)
  }
}

function openBlob(blob: Blob, name: string | undefined): OpenedSource {
  let at = 0
  return {
    name,
    contentType: blob.type,
    totalBytes: blob.size,
    async next() {
      if (at >= blob.size) return undefined
      const piece = blob.slice(at, at + MAX_PIECE)
      at += piece.size
      return new Uint8Array(await piece.arrayBuffer())
    },
  }
}

/** The body of a response; fails when the server said no or the body was read already. */
export function openResponse(response: Response): OpenedSource {
  const where = response.url || 'the response'
  if (!response.ok) throw unreadable(where, `the server answered ${response.status} ${response.statusText}`.trim())
  if (response.bodyUsed) throw unreadable(where, 'its body was read already')
  const length = response.headers.has('content-encoding') ? null : response.headers.get('content-length')
  return {
    ...openStream(response.body),
    name: response.url === '' ? undefined : new URL(response.url).pathname,
    contentType: response.headers.get('content-type') ?? undefined,
    totalBytes: length === null ? undefined : Number(length),
  }
}

/** A stream of bytes; the engine gets its small chunks as larger pieces. */
export function openStream(stream: ReadableStream<Uint8Array> | null): OpenedSource {
  const reader = stream?.getReader()
  return {
    async next() {
      const chunks: Uint8Array[] = []
      let size = 0
      while (reader !== undefined && size < MIN_PIECE) {
        const { done, value } = await reader.read()
        if (done) break
        if (!is(value, 'Uint8Array')) throw new TypeError('the stream gives something else than bytes')
        chunks.push(value)
        size += value.length
      }
      if (size === 0) return undefined
      return joined(chunks)
    },
    cancel: () => void reader?.cancel().catch(() => {}),
  }
}

/** Bytes at hand, in pieces of their own, so that the caller's buffer is never handed over. */
export function openBytes(bytes: Uint8Array): OpenedSource {
  let at = 0
  return {
    totalBytes: bytes.length,
    async next() {
      if (at >= bytes.length) return undefined
      const piece = bytes.slice(at, at + MAX_PIECE)
      at += piece.length
      return piece
    },
  }
}

/** The error of a source that cannot be read. */
export function unreadable(where: string, cause: unknown): KalamError {
  if (cause instanceof KalamError) return cause
  const what = cause instanceof Error ? cause.message : String(cause)
  return new KalamError({ code: 'INVALID_DATA', message: `cannot read ${where}: ${what}`, cause })
}

/** What an import takes from the caller; the rest is detected. */
export interface ImportSettings extends SessionOptions {
  format?: ImportFormat
  create?: boolean
  header?: boolean
  delimiter?: string
  durability?: Durability
}

/** Runs an import to its end; see the module's comment. */
export async function runImport(
  openImporter: (options: ImporterOptions) => Promise<Importer>,
  source: OpenedSource,
  settings: ImportSettings,
  signal: AbortSignal,
  onProgress: (progress: ImportProgress) => void,
): Promise<ExecResult> {
  let importer: Importer | undefined
  let totals = { bytes: 0, rows: 0 }
  const { totalBytes } = source
  let told = -Infinity
  const tell = (progress: ImportProgress, force = false): void => {
    const now = performance.now()
    if (!force && now - told < PROGRESS_MS) return
    told = now
    onProgress(progress)
  }
  const aborted = new Promise<never>((_, reject) => {
    const cancel = (): void => reject(new KalamError({ code: 'CANCELLED', message: 'the import was cancelled' }))
    if (signal.aborted) cancel()
    else signal.addEventListener('abort', cancel, { once: true })
  })
  aborted.catch(() => {})
  // A stalled read must not delay the abort. What the engine does is awaited to its end: only then it is known
  // whether the rows went in.
  const read = async (): Promise<Uint8Array | undefined> => {
    try {
      return await Promise.race([source.next(), aborted])
    } catch (cause) {
      throw unreadable(source.name ?? 'the source', cause)
    }
  }
  const stop = (): void => {
    source.cancel?.()
    try {
      importer?.abort()
    } catch {
      // It ended by itself in the meantime.
    }
  }
  signal.addEventListener('abort', stop, { once: true })
  try {
    let piece = await read()
    importer = await openImporter(importerOptions(source, settings, piece ?? new Uint8Array()))
    if (signal.aborted) await aborted
    while (piece !== undefined) {
      // The next piece is read while the engine works on this one.
      const following = read()
      following.catch(() => {})
      totals = await importer.push(piece)
      tell({ phase: 'read', bytes: totals.bytes, totalBytes, rows: totals.rows })
      piece = await following
    }
    tell({ phase: 'write', bytes: totals.bytes, totalBytes, rows: totals.rows }, true)
    let totalRows: number | undefined
    const result = await importer.finish(p => {
      totalRows = p.totalRows
      totals.rows = p.rows
      tell({ phase: 'write', bytes: totals.bytes, totalBytes, rows: p.rows, totalRows })
    })
    const rows = result.rowsAffected
    tell({ phase: 'done', bytes: totals.bytes, totalBytes, rows, totalRows: totalRows ?? rows }, true)
    return result
  } catch (error) {
    stop()
    throw error
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

function importerOptions(source: OpenedSource, settings: ImportSettings, head: Uint8Array): ImporterOptions {
  const { format: given, delimiter, ...rest } = settings
  const format = given ?? detectFormat(head, source.name, source.contentType)
  const separator = delimiter ?? (format === 'csv' && isTabSeparated(source) ? '\t' : undefined)
  return { format, ...rest, ...(separator !== undefined && { delimiter: separator }) }
}

function isTabSeparated({ name, contentType }: OpenedSource): boolean {
  return /\.(tsv|tab)$/i.test(name ?? '') || /^text\/tab-separated-values\b/i.test(contentType ?? '')
}

const BY_EXTENSION: Record<string, ImportFormat> = {
  parquet: 'parquet',
  pq: 'parquet',
  csv: 'csv',
  tsv: 'csv',
  tab: 'csv',
  ndjson: 'ndjson',
  jsonl: 'ndjson',
  arrow: 'arrow',
  arrows: 'arrow',
  feather: 'arrow',
  ipc: 'arrow',
}

const BY_CONTENT_TYPE: Record<string, ImportFormat> = {
  'application/vnd.apache.parquet': 'parquet',
  'application/x-parquet': 'parquet',
  'application/vnd.apache.arrow.file': 'arrow',
  'application/vnd.apache.arrow.stream': 'arrow',
  'text/csv': 'csv',
  'application/csv': 'csv',
  'text/tab-separated-values': 'csv',
  'application/x-ndjson': 'ndjson',
  'application/jsonl': 'ndjson',
  'application/x-jsonlines': 'ndjson',
}

/**
 * Tells a format: by the magic bytes of the binary ones, then by the extension of the name, by the content type, and
 * by the first character. JSON that starts with `{` is taken as one object per line.
 */
export function detectFormat(head: Uint8Array, name?: string, contentType?: string): ImportFormat {
  const ascii = (length: number): string => String.fromCharCode(...head.subarray(0, length))
  if (ascii(4) === 'PAR1') return 'parquet'
  // ARROW1 starts a file; a stream starts with the continuation mark of its first message.
  if (ascii(6) === 'ARROW1' || ascii(4) === '\xff\xff\xff\xff') return 'arrow'
  const extension = /\.([^./\\]+)$/.exec(name ?? '')?.[1]?.toLowerCase() ?? ''
  const type = contentType?.split(';')[0]?.trim().toLowerCase() ?? ''
  const known = BY_EXTENSION[extension] ?? (extension === 'json' ? undefined : BY_CONTENT_TYPE[type])
  if (known !== undefined) return known
  const first = firstCharacter(head)
  if (first === '[') return 'json'
  if (first === '{') return 'ndjson'
  if (extension === 'json' || type === 'application/json') return 'json'
  const compressed = head[0] === 0x1f && head[1] === 0x8b
  throw invalid(
    `cannot tell the format of ${name ?? 'the source'}${type && ` (content type ${type})`}`,
    compressed
      ? "It is compressed with gzip: import blob.stream().pipeThrough(new DecompressionStream('gzip')) and pass `format`."
      : "Pass format: 'parquet', 'csv', 'json', 'ndjson' or 'arrow'.",
  )
}

/** The first character that is neither white space nor a byte order mark. */
function firstCharacter(head: Uint8Array): string {
  let at = head[0] === 0xef && head[1] === 0xbb && head[2] === 0xbf ? 3 : 0
  while (at < head.length && ' \t\r\n'.includes(String.fromCharCode(head[at] as number))) at++
  return at < head.length ? String.fromCharCode(head[at] as number) : ''
}
