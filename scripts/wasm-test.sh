#!/usr/bin/env bash
# Runs wasm tests in headless Chromium:
#   scripts/wasm-test.sh                                    the storage conformance suite
#   scripts/wasm-test.sh --test some_test [-- filter ...]   any other
# Needs cargo, wasm-bindgen-test-runner, chromedriver and Chromium (`make setup` installs them).
# KALAMDB_WASM_TEST_TIMEOUT: seconds that the tests of one binary may take in all (default 600).
set -euo pipefail
cd "$(dirname "$0")/.."

cache="${XDG_CACHE_HOME:-$HOME/.cache}/kalamdb"
export PATH="$cache/tools/bin:$PATH"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"

fail() { echo "wasm-test: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "'$1' is not there: $2 (\`make setup\` does it)"; }
need cargo "install Rust with rustup"
need wasm-bindgen-test-runner "cargo install wasm-bindgen-cli at the version in Cargo.lock, --root $cache/tools"
need chromedriver "install Debian's chromium-driver"

# Another version than the library's ends in an error about schema versions that helps nobody.
locked=$(awk '/^name = "wasm-bindgen"$/ { getline; gsub(/[^0-9.]/, ""); print; exit }' Cargo.lock)
found=$(wasm-bindgen-test-runner --version | awk '{ print $2 }')
[ "$found" = "$locked" ] || fail "wasm-bindgen-test-runner is $found, Cargo.lock has wasm-bindgen $locked"

chromium="${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}"
[ -n "$chromium" ] || fail "no Chromium: install Debian's chromium, or set CHROMIUM to its path"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The runner adds "headless" itself. No sandbox: containers and CI run as root.
cat > "$work/webdriver.json" <<JSON
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
CHROMEDRIVER=$(command -v chromedriver)
export CHROMEDRIVER
export WASM_BINDGEN_TEST_TIMEOUT="${KALAMDB_WASM_TEST_TIMEOUT:-600}"

[ $# -gt 0 ] || set -- --test storage_conformance
cargo test --profile wasm --target wasm32-unknown-unknown "$@"
