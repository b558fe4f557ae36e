#!/usr/bin/env bash
# Runs wasm tests in headless Chromium:
#   scripts/wasm-test.sh                                    tasks; the storage conformance suites, in a worker and in a page
#   scripts/wasm-test.sh --test some_test [-- filter ...]   any other
# KALAMDB_WASM_TEST_TIMEOUT: seconds that the tests of one binary may take in all (default 150; they take 15).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need() { command -v "$1" >/dev/null || fail "'$1' is not there: $2"; }
need cargo "install Rust with rustup"
need wasm-bindgen-test-runner "\`make setup\` installs wasm-bindgen-cli"
chromium=$(find_chromium) || fail "no Chromium: \`make setup\` installs Debian's, or set CHROMIUM to its path"
CHROMEDRIVER=$(find_chromedriver) || fail "no chromedriver: \`make setup\` installs Debian's, or set CHROMEDRIVER to its path"
export CHROMEDRIVER

# Another version than the library's ends in an error about schema versions that helps nobody.
locked=$(locked_version wasm-bindgen)
found=$(wasm-bindgen-test-runner --version | awk '{ print $2 }')
[ "$found" = "$locked" ] || fail "wasm-bindgen-test-runner is $found, Cargo.lock has wasm-bindgen $locked: run \`make setup\`"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# No sandbox: containers and CI run as root.
cat >"$work/webdriver.json" <<JSON
{
  "goog:chromeOptions": {
    "binary": "$chromium",
    "args": ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
      "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
      "--user-data-dir=$work/profile"]
  }
}
JSON
export WASM_BINDGEN_TEST_WEBDRIVER_JSON="$work/webdriver.json"
export WASM_BINDGEN_TEST_TIMEOUT="${KALAMDB_WASM_TEST_TIMEOUT:-150}"
# The runner waits 5 seconds for the driver by default, which a loaded machine does not always keep.
export WASM_BINDGEN_TEST_DRIVER_TIMEOUT=60

[ $# -gt 0 ] || set -- --test tasks --test storage_conformance --test storage_conformance_page

log=$work/log
run() { cargo test --locked --profile wasm --target wasm32-unknown-unknown "$@" 2>&1 | tee "$log"; }
if ! run "$@"; then
  # Once, on a machine busy with a release build, Chromium stopped answering in the middle of a run and never went on.
  # A run in which a test failed is not repeated: only one that ended without any verdict.
  if grep -qE "^test .* FAIL|test result: FAILED|panicked at|error: could not compile" "$log"; then
    exit 1
  fi
  say ""
  say "WARNING: the run above ended without a verdict (the browser hung or died); running it once more"
  run "$@"
fi
