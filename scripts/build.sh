#!/usr/bin/env bash
# Builds the engine to wasm, pkg/ from it, and the npm package from pkg/; prints sizes. PROFILE=wasm (no LTO, daily
# use) or PROFILE=release (what ships; held to size-budget.json). KEEP_NAMES=1 keeps function names in a release.
#
# Incremental: cargo knows what it must do; the two steps behind it are keyed by the content of what goes into them and
# skipped when that is what their last run saw. A stamp is written only after its step has succeeded.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
PROFILE=${PROFILE:-wasm}
case $PROFILE in
  wasm | release) ;;
  *) fail "PROFILE is '$PROFILE'; it must be wasm or release" ;;
esac

cargo build --lib --locked --target wasm32-unknown-unknown --profile "$PROFILE"
wasm=$CARGO_TARGET_DIR/wasm32-unknown-unknown/$PROFILE/kalamdb.wasm

# Names in a release are a fifth of the download and of use only to us. The daily build keeps them: stack traces.
flags=(--target web --out-dir pkg --out-name kalamdb)
if [ "$PROFILE" = release ] && [ -z "${KEEP_NAMES:-}" ]; then
  flags+=(--remove-name-section --remove-producers-section)
fi
key="$(sha256sum <"$wasm" | cut -d' ' -f1) $(wasm-bindgen --version) ${flags[*]}"
if [ "$(cat pkg/.stamp 2>/dev/null)" != "$key" ] || [ ! -s pkg/kalamdb.js ] || [ ! -s pkg/kalamdb_bg.wasm ]; then
  rm -f pkg/.stamp
  say "wasm-bindgen: writing pkg/"
  # No wasm-opt: Debian's (108) takes one table for another in what wasm-bindgen writes today, so nothing starts; and
  # with -Os it saved a tenth of the raw size but packed 7 % worse (4.81 MB brotli against 4.49).
  wasm-bindgen "${flags[@]}" "$wasm"
  say "$key" >pkg/.stamp
fi

sdk=sdks/typescript
[ -f "$sdk/package.json" ] || fail "$sdk/package.json is missing: the SDK belongs to the build"
# --remove-name-section is part of pkg's stamp, so pkg's stamp stands for pkg's content.
key="$(content_hash "$sdk" LICENSE) $(sha256sum <pkg/.stamp | cut -d' ' -f1)"
stamp=$sdk/node_modules/.kalamdb-built
if [ "$(cat "$stamp" 2>/dev/null)" != "$key" ] || [ ! -d "$sdk/dist" ]; then
  rm -f "$stamp"
  say "sdk: npm run build in $sdk"
  (cd "$sdk" && npm run --silent build)
  say "$key" >"$stamp"
fi

# What was built must answer before anything is said of its size.
node scripts/smoke.mjs

if [ "$PROFILE" = release ] && [ -z "${KEEP_NAMES:-}" ]; then
  node scripts/size.mjs --enforce
else
  node scripts/size.mjs --fast
fi
