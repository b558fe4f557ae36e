# shellcheck shell=bash
# Sourced by the other scripts, which work alone as well as under make. Invariant: after sourcing, the places where
# things are built and kept are exported and lie outside the clone, so that a fresh clone on a used machine is warm.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

KALAMDB_CACHE=${KALAMDB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kalamdb}
KALAMDB_TOOLS=${KALAMDB_TOOLS:-$KALAMDB_CACHE/tools}
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$KALAMDB_CACHE/target}
KALAMDB_PYTHON=${KALAMDB_PYTHON:-$KALAMDB_CACHE/python}
npm_config_cache=${npm_config_cache:-$KALAMDB_CACHE/npm}
export ROOT KALAMDB_CACHE KALAMDB_TOOLS KALAMDB_PYTHON CARGO_TARGET_DIR npm_config_cache
case ":$PATH:" in
  *":$KALAMDB_TOOLS/bin:"*) ;;
  *) export PATH="$KALAMDB_TOOLS/bin:$HOME/.cargo/bin:$PATH" ;;
esac

# Browser programs under the names Debian, other systems and a person's own setting give them.
find_chromium() {
  if [ -n "${CHROMIUM:-}" ]; then command -v "$CHROMIUM" && return; fi
  command -v chromium || command -v chromium-browser || command -v google-chrome || return 1
}
find_chromedriver() {
  if [ -n "${CHROMEDRIVER:-}" ]; then command -v "$CHROMEDRIVER" && return; fi
  command -v chromedriver || return 1
}

say() { printf '%s\n' "$*"; }
section() { printf '\n=== %s\n' "$*"; }
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# The npm projects of the repository: every folder listed here that has a lock file.
npm_projects() {
  local dir
  for dir in . sdks/typescript www tests/browser; do
    if [ -f "$dir/package-lock.json" ]; then say "$dir"; fi
  done
}

# One hash over the contents and names of all given files and folders; build products and dependencies are left out
# (the SDK's build copies the licence into its folder).
content_hash() {
  find "$@" -type f -not -path '*/node_modules/*' -not -path '*/dist/*' -not -name '*.tgz' -not -name '.stamp' -not -path 'sdks/*/LICENSE' -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}

# The version a crate has in Cargo.lock.
locked_version() {
  awk -v want="name = \"$1\"" '$0 == want { getline; gsub(/version = |"/, ""); print; exit }' Cargo.lock
}
