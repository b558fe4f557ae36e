// Puts the bindings that wasm-bindgen wrote into pkg/kalamdb.js (target web) inside a function.
//
// As a module they are a singleton: once its instance has trapped there is no second one in the same thread. Inside
// `createGlue` every call makes an instance of its own, and the instance's exports pass through the caller's guard.
// The text is changed in exactly the places named below; anything unexpected is an error, never a guess.

const EXPORTS_LINE = /^(\s*wasm = )instance\.exports;$/gm

/**
 * @param {string} source pkg/kalamdb.js
 * @returns {string} a module with the one export `createGlue(guard)`
 */
export function wrapGlue(source) {
  const imports = []
  const exported = new Map()
  let body = source
    .replace(/^import .*;$/gm, line => {
      imports.push(line)
      return ''
    })
    .replace(/^export (async function|function|class|const|let) (\w+)/gm, (_, kind, name) => {
      exported.set(name, name)
      return `${kind} ${name}`
    })
    .replace(/^export default (\w+);$/gm, (_, name) => {
      exported.set('init', name)
      return ''
    })
    .replace(/^export \{([^}]*)\};?$/gm, (_, list) => {
      for (const item of list.split(',').filter(text => text.trim() !== '')) {
        const [name, as = name] = item.trim().split(/\s+as\s+/)
        exported.set(as === 'default' ? 'init' : as, name)
      }
      return ''
    })
  if (/^\s*export\b/m.test(body)) throw new Error('pkg/kalamdb.js has an export of a form that is not known')
  const assignments = [...body.matchAll(EXPORTS_LINE)].length
  if (assignments !== 1) {
    throw new Error(
      `pkg/kalamdb.js assigns instance.exports ${assignments} times, expected one 'wasm = instance.exports;'`,
    )
  }
  body = body.replace(EXPORTS_LINE, '$1guard(instance.exports);')
  // The SDK always hands a compiled module over. Without this default, bundlers do not emit the wasm a second time.
  body = body.replace(/^(\s*)module_or_path = new URL\([^)]*import\.meta\.url\);$/m, "$1throw new Error('no module');")
  for (const name of ['init', 'Engine', 'deleteDatabase', 'version']) {
    if (!exported.has(name)) throw new Error(`pkg/kalamdb.js does not export ${name === 'init' ? 'default' : name}`)
  }
  const members = [...exported].map(([as, name]) => (as === name ? as : `${as}: ${name}`)).join(', ')
  return [
    '// Made from pkg/kalamdb.js by scripts/build.mjs.',
    ...imports,
    'export function createGlue(guard) {',
    body.trim(),
    `return { ${members} };`,
    '}',
    '',
  ].join('\n')
}
