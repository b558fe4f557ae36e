// What leaves the database piece by piece: rows of a stream, files of an export.
//
// Invariant: a cursor that was opened is closed, whether its reader came to the end, broke off or failed; and what a
// reader gets is of the snapshot at which it began.

import { joined } from './bytes.js'
import type { Ops } from './engine/protocol.js'
import type { SessionOptions } from './engine/surface.js'
import { callOptions, invalid, rest } from './options.js'
import { checkParams, checkSql } from './params.js'
import type { Caller } from './transaction.js'
import type { CallOptions, ColumnInfo, ExportedFile, ExportOptions, ImportFormat, Params } from './types.js'

/** Rows of one piece of a stream, unless the caller says. */
const BATCH_ROWS = 1000

const EXTENSIONS: Record<ImportFormat, string> = {
  parquet: 'parquet',
  csv: 'csv',
  json: 'json',
  ndjson: 'ndjson',
  arrow: 'arrows',
}

/** What a cursor gives, piece by piece. */
async function* piecesOf<T>(
  client: Caller,
  session: SessionOptions,
  args: Ops['cursor']['args'],
  options: CallOptions,
  fetch: (cursor: number) => Promise<T | undefined>,
): AsyncGenerator<{ columns: readonly ColumnInfo[]; piece: T }> {
  const { cursor, columns } = await client.call('cursor', args, options, { readOnly: args.sql })
  try {
    for (;;) {
      const piece = await fetch(cursor)
      if (piece === undefined) return
      yield { columns, piece }
    }
  } finally {
    // An engine that is gone has no cursors.
    await client.call('closeCursor', { ...session, cursor }, undefined, { readOnly: true }).catch(() => {})
  }
}

/** Packed rows of a query, piece by piece, with its columns. */
export async function* packedRows(
  client: Caller,
  session: SessionOptions,
  sql: string,
  params: Params | undefined,
  options: CallOptions & { batchSize?: number | undefined },
): AsyncGenerator<{ columns: readonly ColumnInfo[]; piece: Uint8Array[] }> {
  const rows = positive('batchSize', options.batchSize ?? BATCH_ROWS)
  const durability = callOptions(options, ['batchSize'])
  const args = { ...session, sql: checkSql(sql), params: checkParams(params), ...durability }
  yield* piecesOf(client, session, args, options, async cursor => {
    const { packed } = await client.call('fetch', { ...session, cursor, rows }, options, { readOnly: true })
    return packed.length === 0 ? undefined : packed
  })
}

/** The files of an export, one after the other. */
export async function* exportedFiles(
  client: Caller,
  session: SessionOptions,
  source: string,
  given: ExportOptions,
): AsyncGenerator<ExportedFile> {
  const durability = callOptions(given, ['format', 'rowsPerFile', 'params'])
  const { format = 'parquet', rowsPerFile, params, ...options } = given
  if (EXTENSIONS[format] === undefined) {
    throw invalid(`format is '${String(format)}', expected 'parquet', 'csv', 'json', 'ndjson' or 'arrow'`)
  }
  const args = {
    ...session,
    sql: queryOf(source),
    params: checkParams(params),
    format,
    ...(rowsPerFile !== undefined && { rowsPerFile: positive('rowsPerFile', rowsPerFile) }),
    ...durability,
  }
  // One file is one call, and the time limit is that of the whole; several are waited for one by one.
  const started = Date.now()
  const limit = (): CallOptions | undefined => (rowsPerFile === undefined ? rest(options, started) : options)
  const fetch = (cursor: number) => client.call('fetchPiece', { ...session, cursor }, limit(), { readOnly: true })
  let parts: Uint8Array[] = []
  let number = 0
  for await (const { piece } of piecesOf(client, session, args, options, fetch)) {
    parts.push(piece.bytes)
    if (!piece.last) continue
    yield { name: `part-${String(number++).padStart(5, '0')}.${EXTENSIONS[format]}`, bytes: joined(parts) }
    parts = []
    if (rowsPerFile === undefined) return
  }
}

/** A query as it is, a table's name as the query of all its rows. */
function queryOf(source: string): string {
  const text = checkSql(source)
  return /^\s*(--|\/\*|\(|(select|with|values|table|show|describe|explain)\b)/i.test(text)
    ? text
    : `SELECT * FROM ${text}`
}

function positive(name: string, value: unknown): number {
  if (typeof value === 'number' && Number.isInteger(value) && value > 0) return Math.min(value, 0x7fff_ffff)
  throw invalid(`${name} is ${String(value)}, expected a whole number above 0`)
}
