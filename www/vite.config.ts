// The playground is built like any user's app: kalamdb is an ordinary package in node_modules.
// Invariant: the page needs nothing from another origin; the sample data is an asset of its own.

import { createReadStream, readFileSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { defineConfig, type Plugin } from 'vite'

const samples = ['flights-3m.parquet', 'airports.csv']

/** Serves the sample files of `vega-datasets` under data/, in development and in the build; none is committed. */
function sampleData(): Plugin {
  const file = (name: string) => fileURLToPath(new URL(`node_modules/vega-datasets/data/${name}`, import.meta.url))
  return {
    name: 'kalamdb-sample-data',
    configureServer(server) {
      server.middlewares.use('/data', (request, response, next) => {
        const name = samples.find(sample => request.url?.split('?')[0] === `/${sample}`)
        if (!name) return next()
        response.setHeader('content-length', statSync(file(name)).size)
        response.setHeader('content-type', 'application/octet-stream')
        createReadStream(file(name)).pipe(response)
      })
    },
    generateBundle() {
      for (const name of samples) {
        this.emitFile({ type: 'asset', fileName: `data/${name}`, source: readFileSync(file(name)) })
      }
    },
  }
}

export default defineConfig({
  base: './',
  plugins: [sampleData()],
  // The package finds its worker and its wasm file beside its own modules; pre-bundling would move them apart.
  optimizeDeps: { exclude: ['kalamdb'] },
  worker: { format: 'es' },
  build: { target: 'es2022', assetsInlineLimit: 0, chunkSizeWarningLimit: 1024 },
})
