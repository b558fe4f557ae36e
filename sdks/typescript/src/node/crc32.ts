// CRC-32, as zlib and PNG have it (polynomial 0xedb88320, reflected).
//
// Invariant: both ways below give the same number, so files written with one are read with the other.

import { nodeProcess } from './builtin.js'

const TABLE = (() => {
  const table = new Uint32Array(256)
  for (let n = 0; n < 256; n++) {
    let c = n
    for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1
    table[n] = c >>> 0
  }
  return table
})()

/** CRC-32 of bytes, by zlib where it has it. */
export function crc32(bytes: Uint8Array): number {
  const zlib = nodeProcess?.getBuiltinModule?.('node:zlib') as { crc32?(bytes: Uint8Array): number } | undefined
  if (zlib?.crc32 !== undefined) return zlib.crc32(bytes)
  let crc = 0xffffffff
  for (let i = 0; i < bytes.length; i++) {
    crc = (TABLE[(crc ^ (bytes[i] as number)) & 0xff] as number) ^ (crc >>> 8)
  }
  return (crc ^ 0xffffffff) >>> 0
}
