#!/usr/bin/env bash
# Runs the conformance suite of storage backends on `kalamdb/node`'s files, in Node, through the engine's wasm:
#   scripts/host-test.sh [-- filter ...]
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

command -v wasm-bindgen-test-runner >/dev/null || fail "'wasm-bindgen-test-runner' is not there: \`make setup\` installs it"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sdk=sdks/typescript
node "$sdk/node_modules/typescript/bin/tsc" -p "$sdk" --outDir "$work/sdk" --declaration false --declarationMap false --sourceMap false
printf '{ "type": "module" }\n' >"$work/package.json"
export KALAM_HOST_STORAGE="$work/sdk/node/index.js" KALAM_HOST_FOLDER="$work/data"
export NODE_OPTIONS="--import $ROOT/tests/support/host-storage.mjs"
export WASM_BINDGEN_TEST_TIMEOUT="${KALAMDB_WASM_TEST_TIMEOUT:-150}"
cargo test --locked --profile wasm --target wasm32-unknown-unknown --test host_conformance "$@"
