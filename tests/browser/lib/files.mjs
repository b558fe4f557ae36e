// Files to import, made here or taken from vega-datasets (which www/ pins), and what is in them.

import { readFileSync } from 'node:fs'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { root } from './harness.mjs'

/** The path of a file of vega-datasets. */
export const vegaPath = name => `${root}www/node_modules/vega-datasets/data/${name}`

/** A file of vega-datasets, as bytes. */
export const vega = name => readFileSync(vegaPath(name))

/** `count` flights like those of flights-3m.parquet: plain values, the same for the same number. */
export function flights(count) {
  const origins = ['ATL', 'SFO', 'ORD', 'DFW', 'LAX']
  return Array.from({ length: count }, (_, at) => ({
    date: new Date(Date.UTC(2001, 0, 1) + at * 60_000),
    delay: at % 11 === 0 ? null : BigInt((at * 37) % 200) - 40n,
    distance: BigInt(100 + ((at * 13) % 2400)),
    origin: origins[at % 5],
    destination: origins[(at * 3 + 1) % 5],
  }))
}

/** Rows of `flights` as a Parquet file (snappy, several row groups). */
export function flightsParquet(rows) {
  const schema = [
    { name: 'root', num_children: 5 },
    {
      name: 'date',
      type: 'INT64',
      repetition_type: 'OPTIONAL',
      logical_type: { type: 'TIMESTAMP', isAdjustedToUTC: false, unit: 'MICROS' },
    },
    { name: 'delay', type: 'INT64', repetition_type: 'OPTIONAL' },
    { name: 'distance', type: 'INT64', repetition_type: 'OPTIONAL' },
    { name: 'origin', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' },
    { name: 'destination', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' },
  ]
  const columnData = schema.slice(1).map(({ name }) => ({
    name,
    data: rows.map(row => (name === 'date' ? BigInt(row.date.getTime()) * 1000n : row[name])),
  }))
  return new Uint8Array(parquetWriteBuffer({ schema, columnData, rowGroupSize: 4000 }))
}

/** A CSV text as RFC 4180 has it; null is the empty field. */
export function csv(columns, rows) {
  const field = value => {
    if (value === null) return ''
    const text = value instanceof Date ? value.toISOString().slice(0, 19) : String(value)
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
  }
  return `${[columns, ...rows.map(row => columns.map(column => row[column]))].map(line => line.map(field).join(',')).join('\n')}\n`
}
