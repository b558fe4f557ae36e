// Reads a WebAssembly binary as far as code size needs: the function bodies of the code section and the function names
// of the name section. Invariant: every byte of the code section's bodies is given to exactly one function, so the sums
// add up to the section.

class Reader {
  constructor(bytes, at = 0, end = bytes.length) {
    this.bytes = bytes
    this.at = at
    this.end = end
  }
  u8() {
    if (this.at >= this.end) throw new Error(`wasm: the binary ends in the middle, at byte ${this.at}`)
    return this.bytes[this.at++]
  }
  /** An unsigned LEB128 number of up to 32 bits. */
  u32() {
    let result = 0
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.u8()
      result += (byte & 0x7f) * 2 ** shift
      if (byte < 0x80) return result
    }
    throw new Error(`wasm: a number at byte ${this.at} is too long`)
  }
  text() {
    const length = this.u32()
    const from = this.skip(length)
    return new TextDecoder().decode(this.bytes.subarray(from, from + length))
  }
  /** Passes over a number of bytes and returns where they began. */
  skip(length) {
    const from = this.at
    if (from + length > this.end) throw new Error(`wasm: ${length} bytes at ${from} reach past the end`)
    this.at += length
    return from
  }
}

/** How many functions an import section brings; they come first in the numbering of functions. */
function importedFunctions(reader) {
  let functions = 0
  const limits = () => {
    const flags = reader.u8()
    reader.u32()
    if (flags & 1) reader.u32()
  }
  for (let left = reader.u32(); left > 0; left--) {
    reader.text()
    reader.text()
    const kind = reader.u8()
    if (kind === 0) {
      reader.u32()
      functions++
    } else if (kind === 1) {
      reader.u8()
      limits()
    } else if (kind === 2) limits()
    else if (kind === 3) reader.skip(2)
    else if (kind === 4) {
      reader.u8()
      reader.u32()
    } else throw new Error(`wasm: unknown kind of import ${kind}`)
  }
  return functions
}

/** The functions of a module, `{ index, size, name? }`, and the size of each of its sections. */
export function readFunctions(bytes) {
  const file = new Reader(bytes)
  if (bytes.length < 8 || bytes[0] !== 0 || bytes[1] !== 0x61 || bytes[2] !== 0x73 || bytes[3] !== 0x6d) {
    throw new Error('not a WebAssembly binary')
  }
  file.skip(8)
  let imported = 0
  const functions = []
  const names = new Map()
  const sections = []
  const kinds = [
    'custom',
    'type',
    'import',
    'function',
    'table',
    'memory',
    'global',
    'export',
    'start',
    'element',
    'code',
    'data',
    'data count',
    'tag',
  ]
  while (file.at < file.end) {
    const id = file.u8()
    const size = file.u32()
    const from = file.skip(size)
    const reader = new Reader(bytes, from, from + size)
    let label = kinds[id] ?? `section ${id}`
    if (id === 2) imported = importedFunctions(reader)
    if (id === 10) {
      const count = reader.u32()
      for (let i = 0; i < count; i++) {
        const body = reader.u32()
        // The length prefix belongs to the function too.
        const start = reader.skip(body)
        functions.push({ index: imported + i, size: body + lebLength(body), start })
      }
    }
    if (id === 0) {
      const custom = reader.text()
      label = `custom "${custom}"`
      if (custom === 'name') readNames(reader, names)
    }
    sections.push({ label, size })
  }
  for (const found of functions) found.name = names.get(found.index)
  return { functions, sections, named: names.size > 0 }
}

const lebLength = value => Math.max(1, Math.ceil((32 - Math.clz32(value)) / 7))

function readNames(reader, names) {
  while (reader.at < reader.end) {
    const id = reader.u8()
    const size = reader.u32()
    const from = reader.skip(size)
    if (id !== 1) continue
    const map = new Reader(reader.bytes, from, from + size)
    for (let left = map.u32(); left > 0; left--) {
      const index = map.u32()
      names.set(index, map.text())
    }
  }
}

/**
 * The crate a Rust symbol's code was written in, or undefined when the name is no Rust symbol. Generic code counts for
 * the crate that wrote the generic function, not for the one that called for it; a trait's method counts for the crate
 * of the type or the impl.
 */
export function crateOf(symbol) {
  const name = symbol.replace(/\.llvm\.\d+$/, '')
  if (/^_?_R/.test(name)) return crateOfV0(name.replace(/^_?_R/, ''))
  const legacy = /^_?_ZN(\d.*)$/.exec(name)
  if (legacy) return crateOfLegacy(legacy[1])
  return crateOfReadable(name)
}

/** v0 mangling: the first crate root ("C", a disambiguator, an identifier) of the path is the crate of the item. */
function crateOfV0(mangled) {
  const crateAt = at => {
    const found = /^C(?:s[0-9a-zA-Z]*_)?u?(\d+)_?/.exec(mangled.slice(at))
    if (!found) return undefined
    const from = at + found[0].length
    const name = mangled.slice(from, from + Number(found[1]))
    return name.length === Number(found[1]) && /^\w+$/.test(name) ? name : undefined
  }
  let at = /^\d*/.exec(mangled)[0].length
  while (at < mangled.length) {
    // "N" and a namespace open a nested path, "I" generic arguments, "M" and "X" an impl (its disambiguator, then the
    // path it stands in), "Y" a type and its trait; references, pointers and slices come before the type they are of.
    const opening = /^(?:N[a-zA-Z]|I|[MX](?:s[0-9a-zA-Z]*_)?|Y|[RQ](?:L[0-9a-zA-Z]*_)?|[POSA])/.exec(mangled.slice(at))
    if (mangled[at] === 'C') return crateAt(at)
    if (!opening) break
    at += opening[0].length
  }
  // A primitive, a tuple or a back reference stands in the way: the next crate named is the trait's.
  for (let next = at; next < mangled.length; next++) {
    const crate = mangled[next] === 'C' ? crateAt(next) : undefined
    if (crate) return crate
  }
  return undefined
}

/** Legacy mangling: length-prefixed parts; `_$LT$` opens `<Type as Trait>`, whose type is read first. */
function crateOfLegacy(mangled) {
  const length = Number(/^\d+/.exec(mangled)[0])
  const from = String(length).length
  const part = mangled
    .slice(from, from + length)
    .replace(/^_(?=\$)/, '')
    .replace(/\$LT\$/g, '<')
    .replace(/\$GT\$/g, '>')
    .replace(/\$RF\$/g, '&')
    .replace(/\$BP\$/g, '*')
    .replace(/\$LP\$/g, '(')
    .replace(/\$RP\$/g, ')')
    .replace(/\$C\$/g, ',')
    .replace(/\$u([0-9a-f]+)\$/g, (_, code) => String.fromCodePoint(Number.parseInt(code, 16)))
    .replace(/\.\./g, '::')
  return crateOfReadable(part.includes('::') || part.includes('<') ? part : `${part}::`)
}

/** Names as a demangler writes them: `core::fmt::write`, `core[8f3a]::fmt::write`, `<alloc::vec::Vec<T> as Drop>::drop`. */
function crateOfReadable(name) {
  const typeFirst = /^[<&*([\s]*(?:(?:mut|const|dyn) )*([A-Za-z_]\w*)(?:\[[0-9a-f]+\])?::/.exec(name)
  if (typeFirst) return typeFirst[1]
  // A generic or primitive type (`<T as arrow::Array>`, `<u8 as …>`) belongs to no crate: then the trait's it is.
  return name.startsWith('<') ? / as ([A-Za-z_]\w*)(?:\[[0-9a-f]+\])?::/.exec(name)?.[1] : undefined
}

/** Sums code by crate, largest first: `[{ crate, size, functions }]`. Code that is not Rust's is under "(not Rust)". */
export function sumByCrate(functions) {
  const sums = new Map()
  for (const found of functions) {
    const crate = found.name === undefined ? '(no name)' : (crateOf(found.name) ?? '(not Rust)')
    const sum = sums.get(crate) ?? { crate, size: 0, functions: 0 }
    sum.size += found.size
    sum.functions++
    sums.set(crate, sum)
  }
  return [...sums.values()].sort((a, b) => b.size - a.size || (a.crate < b.crate ? -1 : 1))
}
