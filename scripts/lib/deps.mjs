// What a dependency must be: of a licence we may ship, from a registry, not banned, not withdrawn, and under no advisory
// that nobody has looked at. Invariant: every check works on data that is already on the machine, and whatever it
// cannot read or does not know is a finding, never a pass.

import { satisfies } from './semver.mjs'
import { isAllowed, parseSpdx } from './spdx.mjs'

const CRATES_IO = 'registry+https://github.com/rust-lang/crates.io-index'

/** The packages of `cargo metadata`, ours included, as `{ kind, name, version, licence, source, own, dev }`. */
export function cratesOf(metadata) {
  const members = new Set(metadata.workspace_members)
  return metadata.packages.map(found => ({
    kind: 'crate',
    name: found.name,
    version: found.version,
    licence: found.license,
    source: found.source === CRATES_IO ? 'registry' : (found.source ?? `path ${found.manifest_path}`),
    own: members.has(found.id),
    dev: false,
  }))
}

/** The packages of an npm lock file (version 2 or 3) in the same form; `where` names the lock file. */
export function npmPackagesOf(lock, where) {
  if (!lock.packages) throw new Error(`${where} has no "packages": npm 7 or later writes it`)
  return Object.entries(lock.packages).map(([path, entry]) => {
    const own = path === ''
    const name = entry.name ?? path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)
    let source = 'registry'
    if (entry.link || (!own && !path.includes('node_modules/'))) source = `link ${entry.resolved ?? path}`
    else if (entry.resolved && !/^https:\/\/registry\.npmjs\.org\//.test(entry.resolved)) source = entry.resolved
    else if (!own && !entry.integrity && !entry.inBundle) source = 'nowhere: the lock file has no integrity hash for it'
    return {
      kind: 'npm',
      name,
      version: entry.version ?? '0.0.0',
      licence: entry.license,
      source: own ? 'own' : source,
      own,
      dev: Boolean(entry.dev ?? entry.devOptional),
      withdrawn: entry.deprecated ? `deprecated: ${entry.deprecated}` : undefined,
      where,
    }
  })
}

/** The findings about one package: texts, empty when it is as it must be. */
export function judge(found, policy) {
  if (found.own) return []
  const findings = []
  const at = `${found.kind} ${found.name} ${found.version}${found.where ? ` (${found.where})` : ''}`
  if (found.source !== 'registry') findings.push(`${at}: comes from ${found.source}, not from the registry`)

  const allowed = new Set(policy.licences.map(entry => entry.id))
  if (found.kind === 'npm' && found.dev) for (const entry of policy.toolLicences) allowed.add(entry.id)
  const licence =
    policy.corrected.find(entry => entry.kind === found.kind && entry.name === found.name)?.licence ?? found.licence
  if (!licence) {
    findings.push(`${at}: names no licence`)
  } else {
    try {
      if (!isAllowed(parseSpdx(licence), allowed)) findings.push(`${at}: licence ${licence} is not on the allow-list`)
    } catch (error) {
      findings.push(`${at}: ${error.message}`)
    }
  }

  const ban = policy.banned.find(entry => entry.kind === found.kind && entry.name === found.name)
  if (ban && !(ban.shippedOnly && found.dev)) findings.push(`${at}: banned: ${ban.reason}`)
  const kept = policy.accepted.some(entry => entry.id === 'withdrawn' && entry.package === found.name)
  if (found.withdrawn && !kept) findings.push(`${at}: ${found.withdrawn}`)
  return findings
}

/** Whether an advisory in RustSec's form (patched and unaffected requirements) covers a version. */
export function affects(advisory, found) {
  if (advisory.kind !== found.kind || advisory.package !== found.name) return false
  return ![...advisory.patched, ...(advisory.unaffected ?? [])].some(range => satisfies(found.version, range))
}

/**
 * Checks all packages against policy and advisories: `{ findings, accepted, stale }`. An advisory whose id is accepted
 * for that package goes to `accepted` with its reason; acceptances that met nothing go to `stale`.
 */
export function checkDependencies(packages, policy, advisories) {
  const findings = packages.flatMap(found => judge(found, policy))
  const accepted = []
  const used = new Set()
  for (const found of packages) {
    for (const advisory of advisories) {
      if (found.own || !affects(advisory, found)) continue
      const acceptance = policy.accepted.find(entry => entry.id === advisory.id && entry.package === found.name)
      if (acceptance) {
        used.add(acceptance)
        accepted.push(
          `${advisory.id} ${found.name} ${found.version}: ${advisory.reason} Accepted: ${acceptance.reason}`,
        )
      } else {
        findings.push(`${found.kind} ${found.name} ${found.version}: ${advisory.id}: ${advisory.reason}`)
      }
    }
  }
  const stale = policy.accepted.filter(entry => entry.id !== 'withdrawn' && !used.has(entry))
  return { findings, accepted, stale: stale.map(entry => `${entry.id} ${entry.package}`) }
}

/**
 * The yanked versions in one file of cargo's local index cache: a header, then per version its number and the JSON of
 * its index entry, each ended by a zero byte.
 */
export function yankedIn(cacheFile) {
  const yanked = new Set()
  for (const part of cacheFile.toString('utf8').split('\0')) {
    if (!part.startsWith('{')) continue
    const entry = JSON.parse(part)
    if (entry.yanked) yanked.add(entry.vers)
  }
  return yanked
}

/** Where cargo's sparse index keeps a crate, relative to the index's `.cache` folder. */
export function indexPath(name) {
  const lower = name.toLowerCase()
  if (lower.length <= 2) return `${lower.length}/${lower}`
  if (lower.length === 3) return `3/${lower[0]}/${lower}`
  return `${lower.slice(0, 2)}/${lower.slice(2, 4)}/${lower}`
}
