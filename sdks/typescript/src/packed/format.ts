// KPR1, the packed column format between the engine and JavaScript, both directions.
//
// One little-endian buffer, every section 8-byte aligned from its start:
//   u32 magic | u32 columns | u32 rows | u32 0
//   per column 32 bytes: u32 kind | u32 flags | u32 validity | u32 data | u32 data_bytes | u32 offsets | u32 width | u32 0
//   sections
// Validity is one byte per row (1 = valid) and present only with FLAG_NULLS; offsets are u32[rows + 1] into the data.

/** 'KPR1' as a little-endian u32. */
export const MAGIC = 0x3152504b
export const HEADER_BYTES = 16
export const COLUMN_BYTES = 32
/** Column flag: there is a validity section. */
export const FLAG_NULLS = 1

/** What the data section of a column holds. */
export const Kind = {
  /** u8 per row */
  BOOL: 1,
  INT32: 2,
  INT64: 3,
  FLOAT64: 4,
  /** UTF-8 and offsets */
  UTF8: 5,
  /** i64 µs since the epoch, UTC */
  TIMESTAMP: 6,
  /** i32 days since the epoch */
  DATE: 7,
  /** UTF-8 and offsets */
  JSON: 8,
  /** bytes and offsets */
  BYTES: 9,
  /** f32 × width per row */
  EMBEDDING: 10,
  /** 16 bytes per row */
  UUID: 11,
} as const
export type Kind = (typeof Kind)[keyof typeof Kind]

/** The next multiple of 8. */
export function align8(n: number): number {
  return (n + 7) & ~7
}

// Typed arrays read in the platform's byte order. Every platform that runs wasm engines today is little-endian; the
// check keeps the assumption from ever turning into wrong numbers.
export const LITTLE_ENDIAN = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1
