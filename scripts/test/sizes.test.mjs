import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { bytes, measure, table, violations } from '../lib/sizes.mjs'
import { crateOf, readFunctions, sumByCrate } from '../lib/wasm.mjs'

describe('budget', () => {
  const budget = { wasm: { raw: 100, brotli: 10 }, glue: { raw: 5 } }
  it('is kept at the ceiling itself', () => {
    assert.deepEqual(violations(budget, { wasm: { raw: 100, brotli: 10 }, glue: { raw: 5 } }), [])
  })
  it('is broken above it, part by part', () => {
    const found = violations(budget, { wasm: { raw: 101, brotli: 10 }, glue: { raw: 6 } })
    assert.equal(found.length, 2)
    assert.match(found[0], /wasm: raw 101 B is over the ceiling of 100 B/)
  })
  it('is broken by a part that was not measured', () => {
    assert.match(violations(budget, { wasm: { raw: 1, brotli: 1 } })[0], /glue: .* was not measured/)
  })
  it('sizes are those of the compressors', () => {
    const sizes = measure(Buffer.alloc(100_000, 'kalam'), 5)
    assert.equal(sizes.raw, 100_000)
    assert.ok(sizes.gzip < 1000 && sizes.brotli < sizes.gzip)
  })
  it('numbers and columns read well', () => {
    assert.deepEqual([12, 1234, 28_000_000].map(bytes), ['12 B', '1.2 kB', '28.00 MB'])
    assert.deepEqual(
      table([
        ['a', '1'],
        ['bcd', '22'],
      ]),
      ['a     1', 'bcd  22'],
    )
  })
})

describe('symbols', () => {
  const cases = {
    // v0
    _RNvNtCs1234_4core3fmt5write: 'core',
    _RINvNtCs9_5alloc3vec4pushmE: 'alloc',
    _RNvXs2_NtCsab_10arrow_cast4castNtB5_1aNtNtCs_4core3fmt7Display3fmt: 'arrow_cast',
    _RNvMs_NtCs1_7kalamdb5errorNtB2_10KalamError3new: 'kalamdb',
    _RNvYNtNtCs1_7parquet4file1aNtNtCs2_4core3ops4Drop4drop: 'parquet',
    _RNvYRShNtNtCs2_4core3cmp9PartialEq2eq: 'core',
    // An identifier that starts with an underscore is set off by another one.
    _RNvCs1_4__odd4main: '_odd',
    // legacy
    _ZN4core3fmt5write17h0123456789abcdefE: 'core',
    '_ZN69_$LT$alloc..vec..Vec$LT$T$C$A$GT$$u20$as$u20$core..ops..drop..Drop$GT$4drop17h0123456789abcdefE': 'alloc',
    '_ZN40_$LT$T$u20$as$u20$arrow_array..Array$GT$6is_nul17h0123456789abcdefE': 'arrow_array',
    '_ZN4core3ptr42drop_in_place$LT$alloc..string..String$GT$17h0123456789abcdefE.llvm.123': 'core',
    // demangled
    'datafusion_common::error::DataFusionError::context::h0123': 'datafusion_common',
    'sqlparser[f00d]::parser::Parser::parse': 'sqlparser',
    '<&mut sqlparser[f00d]::parser::Parser as core[1]::fmt::Debug>::fmt': 'sqlparser',
    '<u8 as core::fmt::Debug>::fmt': 'core',
    // not Rust
    ZSTD_decompress: undefined,
    memcpy: undefined,
    'closure 12 externref shim': undefined,
  }
  for (const [symbol, crate] of Object.entries(cases)) {
    it(`${symbol} is code of ${crate ?? 'no crate'}`, () => assert.equal(crateOf(symbol), crate))
  }
})

describe('a wasm binary', () => {
  const text = value => [value.length, ...Buffer.from(value)]
  const section = (id, content) => [id, content.length, ...content]
  const body = size => [size, 0, ...Array(size - 2).fill(1), 0x0b]
  const header = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]
  const imports = section(2, [
    4,
    ...text('env'),
    ...text('f'),
    0,
    0,
    ...text('env'),
    ...text('m'),
    2,
    1,
    1,
    2,
    ...text('env'),
    ...text('g'),
    3,
    0x7f,
    0,
    ...text('env'),
    ...text('t'),
    1,
    0x70,
    0,
    1,
  ])
  const code = section(10, [3, ...body(5), ...body(9), ...body(3)])
  const names = section(0, [
    ...text('name'),
    // The module's own name comes first and is passed over.
    0,
    2,
    ...text('k'),
    ...section(1, [3, 1, ...text('_RNvCs1_4core1a'), 2, ...text('_RNvCs1_4kala1b'), 3, ...text('memcpy')]),
  ])
  const module = Uint8Array.from([...header, ...imports, ...code, ...names])

  it('gives every function its size and, after the imported ones, its name', () => {
    const { functions, named, sections } = readFunctions(module)
    assert.equal(named, true)
    assert.deepEqual(
      functions.map(({ index, size, name }) => [index, size, name]),
      [
        [1, 6, '_RNvCs1_4core1a'],
        [2, 10, '_RNvCs1_4kala1b'],
        [3, 4, 'memcpy'],
      ],
    )
    // All of the code section but its count of functions.
    assert.equal(
      functions.reduce((sum, found) => sum + found.size, 0),
      sections.find(found => found.label === 'code').size - 1,
    )
  })
  it('is summed by crate, largest first', () => {
    assert.deepEqual(sumByCrate(readFunctions(module).functions), [
      { crate: 'kala', size: 10, functions: 1 },
      { crate: 'core', size: 6, functions: 1 },
      { crate: '(not Rust)', size: 4, functions: 1 },
    ])
  })
  it('without a name section is read, and says so', () => {
    assert.equal(readFunctions(Uint8Array.from([...header, ...code])).named, false)
  })
  it('cut short, or something else, is refused', () => {
    assert.throws(() => readFunctions(module.subarray(0, module.length - 4)), /reach past the end/)
    assert.throws(() => readFunctions(Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8])), /not a WebAssembly binary/)
  })
})
