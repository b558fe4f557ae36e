// Loading wasm, the guard around instances, and the factory that the build makes of the bindings.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { pathToFileURL } from 'node:url'
import type { ConnectProgress } from '../src/types.js'
import { compileEngine, guardExports } from '../src/wasm.js'

// (module (func (export "boom") unreachable) (func (export "seven") (result i32) i32.const 7)
//         (import "js" "call" (func)) (func (export "nested") call 0))
const MODULE = new Uint8Array([
  ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
  ...[1, 8, 2, 0x60, 0, 0, 0x60, 0, 1, 0x7f],
  ...[2, 11, 1, 2, 0x6a, 0x73, 4, 0x63, 0x61, 0x6c, 0x6c, 0, 0],
  ...[3, 4, 3, 0, 1, 0],
  ...[7, 25, 3, 4, 0x62, 0x6f, 0x6f, 0x6d, 0, 1, 5, 0x73, 0x65, 0x76, 0x65, 0x6e, 0, 2, 6],
  ...[0x6e, 0x65, 0x73, 0x74, 0x65, 0x64, 0, 3],
  ...[10, 15, 3, 3, 0, 0, 0x0b, 4, 0, 0x41, 7, 0x0b, 4, 0, 0x10, 0, 0x0b],
])

type Exports = { boom(): unknown; seven(): unknown; nested(): void }

function instance(onTrap: (error: Error) => void, call: (exports: Exports) => void = () => {}): Exports {
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(MODULE), {
    js: { call: () => call(guarded) },
  })
  const guarded = guardExports(exports, onTrap) as unknown as Exports
  return guarded
}

describe('the guard', () => {
  it('reports the first trap and never enters the instance again', () => {
    const traps: Error[] = []
    const exports = instance(error => traps.push(error))
    assert.equal(exports.seven(), 7)
    // Nothing, in a form that bindings can take apart: a task that trapped must not throw where nobody can catch it.
    assert.deepEqual(exports.boom(), [])
    assert.deepEqual(exports.seven(), [])
    exports.boom()
    assert.equal(traps.length, 1)
    assert.ok(traps[0] instanceof WebAssembly.RuntimeError)
  })

  it('does not let outer frames of wasm go on after an inner trap', () => {
    const traps: Error[] = []
    let wentOn = false
    const exports = instance(
      error => traps.push(error),
      inner => {
        inner.boom()
        wentOn = true
      },
    )
    exports.nested()
    assert.equal(traps.length, 1)
    assert.equal(wentOn, false)
  })

  it('lets other exceptions through', () => {
    const exports = instance(assert.fail, () => {
      throw new TypeError('from JavaScript')
    })
    assert.throws(() => exports.nested(), TypeError)
    assert.equal(exports.seven(), 7)
  })

  it('counts a stack overflow as a trap', () => {
    const traps: Error[] = []
    const exports = instance(
      error => traps.push(error),
      inner => inner.nested(),
    )
    exports.nested()
    assert.equal(traps.length, 1)
    assert.ok(traps[0] instanceof RangeError)
  })
})

describe('loading', () => {
  it('reads a file and compiles it once', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'kalamdb-wasm-'))
    try {
      const file = join(folder, 'engine.wasm')
      const url = pathToFileURL(file).href
      await assert.rejects(compileEngine(url), { code: 'CONNECTION_FAILED' })
      writeFileSync(file, MODULE)
      const seen: ConnectProgress[] = []
      const module = await compileEngine(url, p => seen.push(p))
      assert.ok(module instanceof WebAssembly.Module)
      assert.equal(await compileEngine(url), module)
      assert.equal(await compileEngine(module), module)
      assert.deepEqual(seen, [{ phase: 'compile', bytes: MODULE.length, totalBytes: MODULE.length }])
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('streams from a server, with progress, and says what is wrong with an answer', async () => {
    const types: Record<string, string> = { '/a.wasm': 'application/wasm', '/b.wasm': 'application/octet-stream' }
    const server = createServer((request, response) => {
      const type = types[request.url ?? '']
      if (request.url === '/page') response.setHeader('content-type', 'text/html').end('<html></html>')
      else if (type === undefined) response.writeHead(404).end('no')
      else response.setHeader('content-type', type).end(MODULE)
    })
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    try {
      for (const path of Object.keys(types)) {
        const seen: ConnectProgress[] = []
        const compiled = new Promise<void>(resolve => {
          const onProgress = (p: ConnectProgress): void => {
            seen.push(p)
            if (p.phase === 'compile') resolve()
          }
          compileEngine(base + path, onProgress).then(module => assert.ok(module instanceof WebAssembly.Module))
        })
        await compiled
        assert.deepEqual(seen.at(-1)?.bytes, MODULE.length)
      }
      await assert.rejects(compileEngine(`${base}/missing`), { code: 'CONNECTION_FAILED', message: /answered 404/ })
      await assert.rejects(compileEngine(`${base}/page`), { message: /not a wasm module \(content type text\/html\)/ })
    } finally {
      server.close()
    }
    await assert.rejects(compileEngine(`${base}/gone`), { code: 'CONNECTION_FAILED' })
  })
})

describe('the factory of the bindings', () => {
  // The shape of what wasm-bindgen writes for the target web.
  const BINDINGS = `/* @ts-self-types="./kalamdb.d.ts" */
export class Engine {
  id() { return wasm.id; }
}
export function deleteDatabase(name) { return name; }
export function version() { return wasm.version; }
let wasm;
function __wbg_finalize_init(instance, module) {
    wasm = instance.exports;
    return wasm;
}
async function __wbg_init(module_or_path) {
    if (module_or_path === undefined) {
        module_or_path = new URL('kalamdb_bg.wasm', import.meta.url);
    }
    return __wbg_finalize_init(module_or_path, undefined);
}
export { initSync, __wbg_init as default };
function initSync() {}
`
  type Glue = { init(x: unknown): Promise<void>; version(): string; Engine: new () => { id(): string } }

  async function wrap(source: string): Promise<string> {
    const script = new URL('../../scripts/glue.mjs', import.meta.url).href
    return ((await import(script)) as { wrapGlue(source: string): string }).wrapGlue(source)
  }

  it('makes independent instances, and passes the exports through the guard', async () => {
    const text = await wrap(BINDINGS)
    const { createGlue } = (await import(`data:text/javascript,${encodeURIComponent(text)}`)) as {
      createGlue(guard: (exports: object) => object): Glue
    }
    const one = createGlue(exports => ({ ...exports, version: 'guarded' }))
    const two = createGlue(exports => exports)
    await one.init({ exports: { id: 'one', version: 1 } })
    await two.init({ exports: { id: 'two', version: 2 } })
    assert.equal(one.version(), 'guarded')
    assert.equal(two.version(), 2)
    assert.equal(new one.Engine().id(), 'one')
    assert.equal(new two.Engine().id(), 'two')
    assert.doesNotMatch(text, /import\.meta/)
  })

  it('refuses bindings that it does not understand', async () => {
    await assert.rejects(wrap(BINDINGS.replace('wasm = instance.exports;', 'wasm = exports;')), /0 times/)
    await assert.rejects(wrap(`${BINDINGS}\nexport * from './x.js'`), /form that is not known/)
    await assert.rejects(wrap(BINDINGS.replace('export class', 'class')), /does not export Engine/)
  })
})
