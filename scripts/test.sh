#!/usr/bin/env bash
# Runs every test of the repository and stops at the first step that fails. The last line sums the tests that the
# runners counted: "N passed, N failed".
#
# No step is ever skipped: one whose folder or script is missing is an error, or a lost file would look like success.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The property tests take the same cases in every run, so that a run that fails tells of a change. With cargo alone they
# take others each time; KALAM_MODEL_CASES=10000 makes the models' runs long.
export PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-20261120}

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
steps=0
step() { # name, command...
  local name=$1 log status=0
  shift
  steps=$((steps + 1))
  log=$logs/$(printf '%02d' "$steps").log
  section "$name"
  "$@" 2>&1 | tee "$log" || status=$?
  if [ "$status" -ne 0 ]; then
    [ "$1" != in_dir ] || set -- cd "$2" "&&" "${@:3}"
    printf '\n=== FAILED: %s (exit %s). To run it alone: %s\n' "$name" "$status" "$*"
    node scripts/count-tests.mjs --at-least-one-failed "$logs"/*.log
    exit 1
  fi
}
in_dir() { # folder, command...
  [ -f "$1/package.json" ] || fail "$1/package.json is missing; its tests belong to every run"
  (cd "$1" && "${@:2}")
}
need_file() { [ -f "$1" ] || fail "$1 is missing; its tests belong to every run"; }

step "static checks" scripts/check.sh
step "the scripts' own tests" node --test scripts/test/
step "native tests" cargo test --locked
step "build for the browser" scripts/build.sh
need_file scripts/wasm-test.sh
step "wasm tests in headless Chromium" bash scripts/wasm-test.sh
step "storage conformance on Node's files" bash scripts/host-test.sh
step "SDK tests" in_dir sdks/typescript npm test
# The README's tour is one of these.
step "end to end in headless Chromium" in_dir tests/browser npm test
need_file tests/browser/slt-bridge.mjs
# The same files as in the native step, through the npm package, the worker and IndexedDB.
step "SQL logic tests in headless Chromium" env KALAM_SLT_BRIDGE="node tests/browser/slt-bridge.mjs" cargo test --locked --test slt -- --nocapture

echo
node scripts/count-tests.mjs "$logs"/*.log
