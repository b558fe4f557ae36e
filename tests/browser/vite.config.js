// The test page is built like a user's app: kalamdb is a package in node_modules, found through its exports.
import { defineConfig } from 'vite'

export default defineConfig({
  root: 'page',
  base: './',
  worker: { format: 'es' },
  build: { outDir: '../dist', emptyOutDir: true, target: 'es2022', assetsInlineLimit: 0, minify: false },
})
