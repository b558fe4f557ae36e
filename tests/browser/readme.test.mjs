// The README's five-minute tour, run as it is written.
//
// The js blocks between <!-- tour --> and <!-- /tour --> become one module, in order. A comment `// → <value>` at the
// end of a statement is its expected value: of the expression, of the constant it declares, or of what it logs.
// Invariant: nothing of the text is changed but where the package comes from and the wrapping of those expressions;
// every such comment is checked, and a tour without any fails.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { parseAst } from 'vite'
import { browser, root } from './lib/harness.mjs'

const b = browser({ extra: new Map() })

/** The tour's code and what each checked expression should give. */
export function readTour(markdown) {
  const tours = [...markdown.matchAll(/<!-- tour -->(.*?)<!-- \/tour -->/gs)].map(match => match[1]).join('\n')
  const code = [...tours.matchAll(/^```(?:js|javascript)\n(.*?)^```$/gms)].map(match => match[1]).join('\n')
  const expectations = []
  const edits = []
  const program = parseAst(code)
  for (const node of program.body) {
    if (node.type === 'ImportDeclaration') {
      assert.match(node.source.value, /^kalamdb$/, 'the tour imports kalamdb only')
      const names = node.specifiers.map(({ imported, local }) => `${imported.name}: ${local.name}`)
      edits.push({ start: node.start, end: node.end, text: `const { ${names.join(', ')} } = kalamdb` })
    }
  }
  for (const match of code.matchAll(/\/\/ → (.*)$/gm)) {
    // The last statement that ends on this line, however deep it stands.
    const line = code.lastIndexOf('\n', match.index) + 1
    let found
    const walk = node => {
      if (!node || typeof node !== 'object') return
      if (Array.isArray(node)) return node.forEach(walk)
      if (/^(ExpressionStatement|VariableDeclaration)$/.test(node.type) && node.end <= match.index && node.end > line) {
        found = node
      }
      for (const value of Object.values(node)) walk(value)
    }
    walk(program.body)
    assert.ok(found, `no statement before the comment: ${match[0]}`)
    let target = found.type === 'VariableDeclaration' ? found.declarations.at(-1).init : found.expression
    if (target.type === 'CallExpression' && code.slice(target.callee.start, target.callee.end) === 'console.log') {
      target = target.arguments[0]
    }
    const text = code.slice(target.start, target.end)
    edits.push({ start: target.start, end: target.end, text: `__check(${expectations.length}, ${text})` })
    expectations.push({ text, expected: match[1].trim() })
  }
  let written = code
  for (const { start, end, text } of edits.sort((a, b) => b.start - a.start)) {
    written = written.slice(0, start) + text + written.slice(end)
  }
  return { code: written, expectations }
}

test('the tour gives what it says', async () => {
  const { code, expectations } = readTour(readFileSync(`${root}README.md`, 'utf8'))
  assert.ok(expectations.length > 0, 'README.md has a tour with results: `<!-- tour -->`, js blocks, `// →`')

  const found = await b.page.evaluate(
    async ({ code, expectations }) => {
      // Dates as ISO text, arrays of numbers as arrays; a bigint equals the number it is unless the README writes 1n.
      const show = (value, exact) =>
        JSON.stringify(value, function (key, part) {
          const own = key === '' ? part : this[key]
          if (own instanceof Date) return own.toISOString()
          if (ArrayBuffer.isView(own)) return [...own]
          if (typeof own === 'bigint') return exact ? `${own}n` : Number(own)
          return part
        })
      const seen = []
      const check = (at, value) => {
        const { expected } = expectations[at]
        const exact = /\d+n\b/.test(expected)
        seen.push({ at, got: show(value, exact), want: show(new Function(`return (${expected})`)(), exact) })
        return value
      }
      const run = new Function('kalamdb', '__check', `return (async () => {\n${code}\n})()`)
      await run(kalamdb, check)
      return seen
    },
    { code, expectations },
  )
  for (const { at, got, want } of found) assert.equal(got, want, expectations[at].text)
  assert.deepEqual(
    [...new Set(found.map(one => one.at))].sort((left, right) => left - right),
    expectations.map((_, at) => at),
    'every result was reached',
  )
})
