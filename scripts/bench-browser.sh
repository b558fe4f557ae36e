#!/usr/bin/env bash
# KalamDB beside SQLite-wasm, PGlite, Dexie and DuckDB-wasm in headless Chromium: `scripts/bench-browser.sh [section…]`.
# The peers (100 MB) are installed here and not by `make setup`, because only benchmarks use them.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd benches/browser
[ -d node_modules/dexie ] || npm ci --prefer-offline --no-audit --no-fund --loglevel=error
npm run --silent build
node run.mjs "$@"
