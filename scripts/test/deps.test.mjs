import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, it } from 'node:test'
import { affects, checkDependencies, cratesOf, indexPath, npmPackagesOf, yankedIn } from '../lib/deps.mjs'
import { satisfies } from '../lib/semver.mjs'
import { isAllowed, parseSpdx } from '../lib/spdx.mjs'

const policy = {
  licences: [{ id: 'MIT' }, { id: 'Apache-2.0' }, { id: 'Unicode-3.0' }],
  toolLicences: [{ id: 'MPL-2.0' }],
  corrected: [{ kind: 'crate', name: 'silent', licence: 'MIT' }],
  banned: [
    { kind: 'crate', name: 'openssl-sys', reason: 'no wasm' },
    { kind: 'npm', name: 'apache-arrow', shippedOnly: true, reason: 'no arrow-js' },
  ],
  accepted: [{ id: 'RUSTSEC-1', package: 'old', reason: 'looked at' }],
}
const crate = fields => ({
  kind: 'crate',
  name: 'a',
  version: '1.0.0',
  licence: 'MIT',
  source: 'registry',
  own: false,
  dev: false,
  ...fields,
})
const findingsOf = (fields, advisories = []) => checkDependencies([crate(fields)], policy, advisories).findings

describe('SPDX expressions', () => {
  const allowed = new Set(['MIT', 'Apache-2.0', 'Unicode-3.0'])
  const cases = {
    MIT: true,
    'MIT/Apache-2.0': true,
    'GPL-3.0-only OR MIT': true,
    'GPL-3.0-only AND MIT': false,
    '(MIT OR GPL-2.0+) AND Unicode-3.0': true,
    '(MIT OR Apache-2.0) AND GPL-3.0-only': false,
    // AND binds tighter: this is GPL, or both of the others.
    'GPL-3.0-only OR MIT AND Unicode-3.0': true,
    'MIT AND GPL-3.0-only OR GPL-2.0-only': false,
    'Apache-2.0 WITH LLVM-exception': true,
    'GPL-2.0-only WITH Classpath-exception-2.0': false,
    'SEE LICENSE IN x': undefined,
    'MIT OR': undefined,
    '(MIT': undefined,
    'MIT Apache-2.0': undefined,
    '': undefined,
  }
  for (const [text, expected] of Object.entries(cases)) {
    it(`${text || '(nothing)'} is ${expected === undefined ? 'unreadable' : expected ? 'allowed' : 'refused'}`, () => {
      if (expected === undefined) assert.throws(() => parseSpdx(text))
      else assert.equal(isAllowed(parseSpdx(text), allowed), expected)
    })
  }
})

describe('version requirements', () => {
  const yes = [
    '1.2.3 >=1.2.3',
    '1.2.3 ^1.2',
    '0.2.5 ^0.2.3',
    '1.2.3 <2, >=1',
    '1.0.0-rc.1 <1.0.0',
    '1.0.0-rc.2 >1.0.0-rc.1',
    '1.2.9 ~1.2.3',
    '1.2.3+b =1.2.3',
    '1.0.0-rc.11 >1.0.0-rc.2',
  ]
  const no = [
    '1.2.3 >1.2.3',
    '2.0.0 ^1.2',
    '0.3.0 ^0.2.3',
    '0.0.4 ^0.0.3',
    '2.0.0 <2, >=1',
    '1.0.0-rc.1 >=1.0.0',
    '1.3.0 ~1.2.3',
  ]
  for (const text of yes) it(`${text} holds`, () => assert.equal(satisfies(...text.split(/ (.*)/)), true))
  for (const text of no) it(`${text} does not hold`, () => assert.equal(satisfies(...text.split(/ (.*)/)), false))
  it('nonsense throws', () => {
    assert.throws(() => satisfies('1.0', '>=1'))
    assert.throws(() => satisfies('1.0.0', 'latest'))
  })
})

describe('dependencies', () => {
  it('a good crate has no findings', () => assert.deepEqual(findingsOf({}), []))
  it('a forbidden licence is found', () =>
    assert.match(findingsOf({ licence: 'GPL-3.0-only' })[0], /licence GPL-3.0-only is not on the allow-list/))
  it('a missing licence is found, unless it was looked up', () => {
    assert.match(findingsOf({ licence: null })[0], /names no licence/)
    assert.deepEqual(findingsOf({ name: 'silent', licence: null }), [])
  })
  it('an unreadable licence is found', () =>
    assert.match(findingsOf({ licence: 'non-standard, see file' })[0], /licence expression/))
  it('a git or path source is found', () => {
    const metadata = {
      workspace_members: ['me'],
      packages: [
        { id: 'me', name: 'kalamdb', version: '0.1.0', license: 'Apache-2.0', source: null, manifest_path: '/a' },
        { id: 'g', name: 'g', version: '1.0.0', license: 'MIT', source: 'git+https://example.org/g' },
        { id: 'p', name: 'p', version: '1.0.0', license: 'MIT', source: null, manifest_path: '/p/Cargo.toml' },
        {
          id: 'r',
          name: 'r',
          version: '1.0.0',
          license: 'MIT',
          source: 'registry+https://github.com/rust-lang/crates.io-index',
        },
      ],
    }
    const { findings } = checkDependencies(cratesOf(metadata), policy, [])
    assert.equal(findings.length, 2)
    assert.match(findings[0], /crate g 1.0.0: comes from git\+https/)
    assert.match(findings[1], /crate p 1.0.0: comes from path \/p/)
  })
  it('a banned crate is found', () => assert.match(findingsOf({ name: 'openssl-sys' })[0], /banned: no wasm/))
  it('a yanked version is found', () => {
    const cache = Buffer.from(
      '\u0003\u0002\0\0\0etag\x001.0.0\0{"vers":"1.0.0","yanked":true}\x001.0.1\0{"vers":"1.0.1","yanked":false}\0',
    )
    assert.deepEqual([...yankedIn(cache)], ['1.0.0'])
    assert.match(findingsOf({ withdrawn: 'this version is yanked' })[0], /yanked/)
  })
  it('index paths follow the length of the name', () => {
    assert.deepEqual(['a', 'ab', 'abc', 'Abcd'].map(indexPath), ['1/a', '2/ab', '3/a/abc', 'ab/cd/abcd'])
  })
})

describe('npm packages', () => {
  const lock = entries => npmPackagesOf({ packages: { '': { name: 'root' }, ...entries } }, 'lock')
  const good = { version: '1.0.0', integrity: 'sha512-x', license: 'MIT' }
  const findings = entries => checkDependencies(lock(entries), policy, []).findings
  it('reads scoped and nested names', () => {
    const names = lock({ 'node_modules/@a/b': good, 'node_modules/c/node_modules/@a/d': good }).map(found => found.name)
    assert.deepEqual(names, ['root', '@a/b', '@a/d'])
  })
  it('a good package has no findings', () => assert.deepEqual(findings({ 'node_modules/a': good }), []))
  it('a git source, a link and a missing hash are found', () => {
    assert.match(
      findings({ 'node_modules/a': { ...good, resolved: 'git+ssh://git@github.com/a/a.git' } })[0],
      /not from the registry/,
    )
    assert.match(
      findings({ 'node_modules/a': { link: true, resolved: '../a', license: 'MIT' } })[0],
      /not from the registry/,
    )
    assert.match(findings({ 'node_modules/a': { ...good, integrity: undefined } })[0], /no integrity hash/)
  })
  it('a tool may be under a licence that what ships may not', () => {
    assert.equal(findings({ 'node_modules/a': { ...good, license: 'MPL-2.0' } }).length, 1)
    assert.deepEqual(findings({ 'node_modules/a': { ...good, license: 'MPL-2.0', dev: true } }), [])
  })
  it('a deprecated package and a banned one are found', () => {
    assert.match(findings({ 'node_modules/a': { ...good, deprecated: 'use b' } })[0], /deprecated: use b/)
    assert.match(findings({ 'node_modules/apache-arrow': good })[0], /banned/)
    assert.deepEqual(findings({ 'node_modules/apache-arrow': { ...good, dev: true } }), [])
  })
})

describe('advisories', () => {
  const advisory = {
    id: 'RUSTSEC-0',
    kind: 'crate',
    package: 'a',
    reason: 'bad',
    patched: ['>=1.2.0', '>=1.0.5, <1.1.0'],
    unaffected: ['<0.9.0'],
  }
  it('an affected version is found', () => {
    assert.match(findingsOf({ version: '1.0.4' }, [advisory])[0], /a 1.0.4: RUSTSEC-0: bad/)
    assert.equal(findingsOf({ version: '1.1.3' }, [advisory]).length, 1)
  })
  it('patched and unaffected versions are not', () => {
    for (const version of ['1.2.0', '1.0.5', '0.8.9']) assert.deepEqual(findingsOf({ version }, [advisory]), [])
  })
  it('no patch at all affects every version', () =>
    assert.equal(affects({ ...advisory, patched: [], unaffected: [] }, crate({ version: '99.0.0' })), true))
  it('an accepted advisory is reported as such, with its reason; an acceptance that meets nothing is stale', () => {
    const about = { ...advisory, id: 'RUSTSEC-1', package: 'old', patched: [], unaffected: [] }
    const result = checkDependencies([crate({ name: 'old' })], policy, [about])
    assert.deepEqual(result.findings, [])
    assert.match(result.accepted[0], /RUSTSEC-1 old 1.0.0: bad Accepted: looked at/)
    assert.deepEqual(checkDependencies([crate({})], policy, [about]).stale, ['RUSTSEC-1 old'])
  })
  it('the committed list can be read in full: every range, and no advisory twice', () => {
    const { advisories, date } = JSON.parse(readFileSync(new URL('../advisories.json', import.meta.url), 'utf8'))
    assert.match(date, /^\d{4}-\d\d-\d\d$/)
    const seen = new Set()
    for (const entry of advisories) {
      assert.ok(!seen.has(entry.id + entry.package), entry.id)
      seen.add(entry.id + entry.package)
      for (const range of [...entry.patched, ...(entry.unaffected ?? [])]) satisfies('1.0.0', range)
    }
  })
})
