#!/usr/bin/env bash
# Everything that judges the source without running the product; quick steps first.
#
# Clippy needs check artifacts, which are not the artifacts a build leaves behind: the first run on a machine costs a
# few minutes per target, later ones seconds. For wasm32 it uses the `wasm` profile, so that the compiled C of zstd and
# the proc macros are those of the daily build. tsc comes last because the playground is checked against the packed
# npm package, which has to be built first.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

section "rustfmt"
cargo fmt --check || fail "the files above are not formatted: make fmt"

section "biome"
colors=force
[ -t 1 ] || colors=off
npx --no-install biome ci --error-on-warnings --colors="$colors" || fail "biome found the above; make fmt repairs what it can"

section "licences, sources, bans and advisories of the dependencies"
node scripts/deps.mjs

section "clippy, native, all targets"
cargo clippy --locked --all-targets -- -D warnings

section "clippy, wasm32"
cargo clippy --locked --lib --target wasm32-unknown-unknown --profile wasm -- -D warnings

section "tsc, strict"
scripts/build.sh
for dir in sdks/typescript www; do
  # Read whole before it is searched: grep -q would end it in the middle of its output, which pipefail takes for failure.
  shown=$(cd "$dir" && npx --no-install tsc --showConfig)
  grep -q '"strict": true' <<<"$shown" || fail "$dir/tsconfig.json is not strict"
done
(cd sdks/typescript && npm run --silent typecheck)
(cd www && npm run --silent packed && npm run --silent check)

section "check: all good"
