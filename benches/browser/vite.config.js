// The page is built like a user's app: every engine comes from its npm package.
import { defineConfig } from 'vite'

export default defineConfig({
  root: 'page',
  base: './',
  worker: { format: 'es' },
  // PGlite and SQLite find their wasm beside their code: pre-bundling would move the code away from it.
  optimizeDeps: { exclude: ['@electric-sql/pglite', '@sqlite.org/sqlite-wasm'] },
  build: { outDir: '../dist', emptyOutDir: true, target: 'es2022', assetsInlineLimit: 0, chunkSizeWarningLimit: 4096 },
})
