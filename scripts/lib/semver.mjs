// The part of semantic versioning that advisories need. Invariant: versions are ordered as semver.org says (a
// pre-release is older than its release, build metadata counts for nothing), and a requirement that cannot be read
// throws instead of matching or not matching.

/** `{ numbers: [major, minor, patch], pre: string[] }`. Missing parts are zero when `partial` is allowed. */
export function parseVersion(text, partial = false) {
  const found = /^v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?$/.exec(text.trim())
  if (!found || (!partial && found[3] === undefined)) throw new Error(`"${text}" is no version`)
  return {
    numbers: [found[1], found[2] ?? 0, found[3] ?? 0].map(Number),
    pre: found[4] ? found[4].split('.') : [],
    parts: [found[1], found[2], found[3]].filter(part => part !== undefined).length,
  }
}

/** Negative when a is older than b, positive when newer, 0 when they rank the same. */
export function compareVersions(a, b) {
  for (let i = 0; i < 3; i++) {
    if (a.numbers[i] !== b.numbers[i]) return a.numbers[i] - b.numbers[i]
  }
  if (a.pre.length === 0 || b.pre.length === 0) return b.pre.length - a.pre.length
  for (let i = 0; i < Math.max(a.pre.length, b.pre.length); i++) {
    const [left, right] = [a.pre[i], b.pre[i]]
    if (left === undefined) return -1
    if (right === undefined) return 1
    if (left === right) continue
    const [leftIsNumber, rightIsNumber] = [/^\d+$/.test(left), /^\d+$/.test(right)]
    if (leftIsNumber && rightIsNumber) return Number(left) - Number(right)
    if (leftIsNumber !== rightIsNumber) return leftIsNumber ? -1 : 1
    return left < right ? -1 : 1
  }
  return 0
}

/** The first version that `^bound` (or `~bound`) no longer covers. */
function ceiling(bound, tilde) {
  const [major, minor, patch] = bound.numbers
  if (tilde) return bound.parts === 1 ? [major + 1, 0, 0] : [major, minor + 1, 0]
  if (major > 0 || bound.parts === 1) return [major + 1, 0, 0]
  if (minor > 0 || bound.parts === 2) return [0, minor + 1, 0]
  return [0, 0, patch + 1]
}

/** Whether a version meets a requirement in Cargo's form: comparators joined by commas, all of which must hold. */
export function satisfies(version, requirement) {
  const subject = parseVersion(version)
  return requirement.split(',').every(comparator => {
    const found = /^(>=|<=|>|<|=|\^|~)?\s*(.+)$/.exec(comparator.trim())
    if (!found) throw new Error(`"${requirement}" is no version requirement`)
    const [, operator = '^', text] = found
    const bound = parseVersion(text, true)
    const order = compareVersions(subject, bound)
    switch (operator) {
      case '>=':
        return order >= 0
      case '<=':
        return order <= 0
      case '>':
        return order > 0
      case '<':
        return order < 0
      case '=':
        return order === 0
      default: {
        const end = { numbers: ceiling(bound, operator === '~'), pre: [] }
        return order >= 0 && compareVersions(subject, end) < 0
      }
    }
  })
}
