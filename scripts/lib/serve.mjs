// A static file server for built pages.
//
// Invariant: it only ever answers with files below its root (the path is resolved first and must still be inside),
// with the MIME types that browsers insist on: WebAssembly compiles while it downloads only as application/wasm.
// Files under assets/ carry a content hash in their name, so they may be cached for good, which is also what lets
// Chromium keep the compiled module between visits.

import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { createServer } from 'node:http'
import { extname, join, normalize, resolve, sep } from 'node:path'

const types = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.mjs': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json; charset=utf-8',
  '.ndjson': 'application/x-ndjson; charset=utf-8',
  '.csv': 'text/csv; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.wasm': 'application/wasm',
  '.parquet': 'application/vnd.apache.parquet',
  '.arrow': 'application/vnd.apache.arrow.file',
}

/**
 * Serves `root` on a free port of the loopback interface, or on `port`; `extra` answers paths from memory first.
 *
 * @param {string} root
 * @param {{ port?: number, extra?: Map<string, Uint8Array | string> }} [options]
 * @returns {Promise<{ url: string, close: () => Promise<void> }>} `url` ends with a slash.
 */
export async function serve(root, { port = 0, extra = new Map() } = {}) {
  const base = resolve(root)
  const server = createServer(async (request, response) => {
    const fail = status => response.writeHead(status, { 'content-type': 'text/plain' }).end(`${status}\n`)
    if (request.method !== 'GET' && request.method !== 'HEAD') return fail(405)
    let path
    try {
      path = decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname)
    } catch {
      return fail(400)
    }
    const inMemory = extra.get(path)
    if (inMemory !== undefined) {
      const type = types[extname(path)] ?? 'application/octet-stream'
      return response.writeHead(200, { 'content-type': type, 'cache-control': 'no-store' }).end(inMemory)
    }
    let file = normalize(join(base, path))
    if (file !== base && !file.startsWith(base + sep)) return fail(404)
    let info = await stat(file).catch(() => undefined)
    if (info?.isDirectory()) {
      file = join(file, 'index.html')
      info = await stat(file).catch(() => undefined)
    }
    if (!info?.isFile()) return fail(404)
    response.writeHead(200, {
      'content-type': types[extname(file)] ?? 'application/octet-stream',
      'content-length': info.size,
      'cache-control': path.startsWith('/assets/') ? 'public, max-age=31536000, immutable' : 'no-cache',
    })
    if (request.method === 'HEAD') return response.end()
    createReadStream(file)
      .on('error', () => response.destroy())
      .pipe(response)
  })
  await new Promise((done, failed) => {
    server.once('error', failed)
    server.listen(port, '127.0.0.1', done)
  })
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    close: () =>
      new Promise(done => {
        server.close(done)
        server.closeAllConnections()
      }),
  }
}
