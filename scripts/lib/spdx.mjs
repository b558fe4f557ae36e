// SPDX licence expressions. Invariant: an expression that cannot be read in full is never allowed, and of the
// operators OR binds loosest, then AND, then WITH, as the SPDX specification says.

/**
 * Parses an expression into `{ id, exception? }`, `{ and: [a, b] }` or `{ or: [a, b] }`.
 * The slash that old crates use ("MIT/Apache-2.0") means OR. Throws on anything else.
 */
export function parseSpdx(text) {
  const tokens = text.match(/[()/]|[^\s()/]+/g) ?? []
  let at = 0
  const next = () => tokens[at]
  const word = what => {
    const token = tokens[at++]
    if (token === undefined || /^([()/]|AND|OR|WITH)$/.test(token)) {
      throw new Error(`licence expression "${text}": expected ${what}, found ${token ?? 'its end'}`)
    }
    if (!/^(DocumentRef-[\w.-]+:)?[A-Za-z0-9][\w.-]*\+?$/.test(token)) {
      throw new Error(`licence expression "${text}": "${token}" is no licence id`)
    }
    return token
  }
  const simple = () => {
    if (next() === '(') {
      at++
      const inner = either()
      if (tokens[at++] !== ')') throw new Error(`licence expression "${text}": a bracket is not closed`)
      return inner
    }
    const id = word('a licence id')
    if (next() !== 'WITH') return { id }
    at++
    return { id, exception: word('an exception id') }
  }
  const both = () => {
    let left = simple()
    while (next() === 'AND') {
      at++
      left = { and: [left, simple()] }
    }
    return left
  }
  const either = () => {
    let left = both()
    while (next() === 'OR' || next() === '/') {
      at++
      left = { or: [left, both()] }
    }
    return left
  }
  const tree = either()
  if (at !== tokens.length) throw new Error(`licence expression "${text}": "${next()}" is left over`)
  return tree
}

/** Whether the licence can be met with the allowed ids alone. `ID WITH exception` must be allowed as such or as ID. */
export function isAllowed(tree, allowed) {
  if (tree.and) return tree.and.every(part => isAllowed(part, allowed))
  if (tree.or) return tree.or.some(part => isAllowed(part, allowed))
  if (tree.exception && allowed.has(`${tree.id} WITH ${tree.exception}`)) return true
  // An exception only ever grants more than the licence it is added to.
  return allowed.has(tree.id)
}
