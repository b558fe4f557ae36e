// What leaves the database piece by piece: rows of a stream, files of an export.
//
// Invariant: a cursor that was opened is closed, whether its reader came to the end, broke off or failed; and what a
// reader gets is of the snapshot at which it began.

import { joined } from './bytes.js'
import type { SessionOptions } from './engine/surface.js'
import { callOptions, invalid } from './options.js'
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

/** Packed rows of a query, piece by piece, with its columns. */
export async function* packedRows(
  client: Caller,
  session: SessionOptions,
  sql: string,
  params: Params | undefined,
  options: CallOptions & { batchSize?: number | undefined },
): AsyncGenerator<{ columns: readonly ColumnInfo[]; packed: Uint8Array[] }> {
  const rows = positive('batchSize', options.batchSize ?? BATCH_ROWS)
  const args = { ...session, sql: checkSql(sql), params: checkParams(params), ...callOptions(options, ['batchSize']) }
  const { cursor, columns } = await client.call('cursor', args, options)
  try {
    for (;;) {
      const { packed } = await client.call('fetch', { ...session, cursor, rows }, options, { readOnly: true })
      if (packed.length === 0) return
      yield { columns, packed }
    }
  } finally {
    // An engine that is gone has no cursors.
    await client.call('closeCursor', { ...session, cursor }, undefined, { readOnly: true }).catch(() => {})
  }
}

/** The files of an export, one after the other. */
export async function* exportedFiles(
  client: Caller,
  session: SessionOptions,
  source: string,
  given: ExportOptions,
): AsyncGenerator<ExportedFile> {
  callOptions(given, ['format', 'rowsPerFile', 'params'])
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
  }
  const { cursor } = await client.call('cursor', args, options, { readOnly: true })
  try {
    let pieces: Uint8Array[] = []
    for (let number = 0; ; ) {
      const piece = await client.call('fetchPiece', { ...session, cursor }, options, { readOnly: true })
      if (piece === undefined) return
      pieces.push(piece.bytes)
      if (piece.last) {
        const name = `part-${String(number++).padStart(5, '0')}.${EXTENSIONS[format]}`
        yield { name, bytes: joined(pieces) }
        pieces = []
        if (rowsPerFile === undefined) return
      }
    }
  } finally {
    await client.call('closeCursor', { ...session, cursor }, undefined, { readOnly: true }).catch(() => {})
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
