#!/usr/bin/env bash
# Makes a machine ready to build and test KalamDB. It may be run any number of times: each step first looks whether its
# result is already there, needs no network when it is, and says what it installs and why before it does.
#
# Needed beforehand: git, rustup, Node >= 20.19 with npm. Everything else comes from Debian's packages, crates.io, npm
# and rustup. On a system without apt it names what is missing and how to get it, and exits 1.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

changed=0
install() { # what, why
  changed=1
  say "setup: installing $1: $2"
}

# --- what cannot be installed for you -----------------------------------------------------------------------------
command -v rustup >/dev/null || fail "rustup is missing. It manages the Rust toolchain that rust-toolchain.toml pins: see https://rustup.rs (Debian 13 and later: apt-get install rustup)."
command -v node >/dev/null || fail "Node is missing. Node 20.19 or later runs the SDK's tools and tests: see https://nodejs.org (nvm or fnm will do)."
node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' ||
  fail "Node $(node --version) is too old: 20.19 or later is needed (Vite's floor). See https://nodejs.org."
command -v npm >/dev/null || fail "npm is missing; it comes with Node (Debian: apt-get install npm)."

# --- system packages ----------------------------------------------------------------------------------------------
missing=() reasons=() elsewhere=()
need() { # Debian package, what it is for, where other systems get it, the command that succeeds when it is there
  if ! "${@:4}" >/dev/null 2>&1; then
    missing+=("$1")
    reasons+=("$2")
    elsewhere+=("$3")
  fi
}
have_libc() { [ "$(uname)" != Linux ] || printf '#include <stdlib.h>\n' | cc -E - ; }
have_venv() { python3 -c 'import ensurepip, venv'; }
need gcc "links native Rust builds" "Xcode's command line tools, or the system's gcc" command -v cc
need libc6-dev "C headers for the native build of zstd" "glibc-devel or musl-dev" have_libc
need clang "compiles zstd's C to wasm32, which gcc cannot" "brew install llvm; dnf install clang; pacman -S clang" command -v clang
need llvm "llvm-ar packs those wasm objects into a library" "brew install llvm; dnf install llvm; pacman -S llvm" command -v llvm-ar
need chromium "the browser that the tests and the demo run in" "Chromium or Chrome; CHROMIUM may name it" find_chromium
need python3-venv "a folder for the Python packages that tests compare with" "Python 3 with venv" have_venv
need chromium-driver "drives Chromium in the wasm tests" "the browser's ChromeDriver; CHROMEDRIVER may name it" find_chromedriver
if [ "${#missing[@]}" -gt 0 ]; then
  if command -v apt-get >/dev/null; then
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
      command -v sudo >/dev/null || fail "Debian packages are missing and there is no sudo; as root: apt-get install ${missing[*]}"
      as_root=(sudo)
    fi
    for i in "${!missing[@]}"; do install "Debian package ${missing[i]}" "${reasons[i]}"; done
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    hash -r
  else
    say "setup: this system has no apt-get, so these are yours to install:" >&2
    for i in "${!missing[@]}"; do
      printf '  %-16s %s (%s)\n' "${missing[i]}" "${reasons[i]}" "${elsewhere[i]}" >&2
    done
    exit 1
  fi
fi

# --- Rust ---------------------------------------------------------------------------------------------------------
# rustup would install a missing toolchain by itself when cargo runs, but not where RUSTUP_AUTO_INSTALL is 0, nor would
# it then say why. The file is the only place where version, targets and components are written.
toml_list() { sed -n "s/^$1 *= *\[\(.*\)\].*/\1/p" rust-toolchain.toml | tr -d '" ' | tr ',' ' '; }
channel=$(sed -n 's/^channel *= *"\(.*\)".*/\1/p' rust-toolchain.toml)
[ -n "$channel" ] || fail "rust-toolchain.toml names no channel"
if ! rustup toolchain list | grep -q "^$channel-"; then
  install "Rust $channel" "the toolchain rust-toolchain.toml pins"
  rustup toolchain install "$channel" --profile minimal --no-self-update
fi
have=$(rustup target list --toolchain "$channel" --installed)
for target in $(toml_list targets); do
  if ! grep -qx "$target" <<<"$have"; then
    install "Rust target $target" "the product is built for it"
    rustup target add --toolchain "$channel" "$target"
  fi
done
have=$(rustup component list --toolchain "$channel" --installed)
for component in $(toml_list components); do
  if ! grep -q "^$component\(-\|\$\)" <<<"$have"; then
    install "Rust component $component" "make check uses it"
    rustup component add --toolchain "$channel" "$component"
  fi
done

# Downloads every locked crate, other platforms' included: the licence check reads them all, and needs no network then.
if ! cargo fetch --locked --offline >/dev/null 2>&1; then
  install "the crates of Cargo.lock" "the engine is built from them"
  cargo fetch --locked || fail "cargo fetch failed. If Cargo.toml changed, Cargo.lock must follow: cargo update --workspace"
fi

# The generated JavaScript and the wasm must come from one version of wasm-bindgen, to the last digit.
version=$(locked_version wasm-bindgen)
[ -n "$version" ] || fail "Cargo.lock has no wasm-bindgen"
if [ "$("$KALAMDB_TOOLS/bin/wasm-bindgen" --version 2>/dev/null)" != "wasm-bindgen $version" ] ||
  [ ! -x "$KALAMDB_TOOLS/bin/wasm-bindgen-test-runner" ]; then
  install "wasm-bindgen-cli $version into $KALAMDB_TOOLS" "it writes pkg/ and runs the wasm tests (two minutes to compile)"
# Its own lock file first. A registry mirror that lags behind may not have all of it yet: then the newest that fit.
  # Not into CARGO_TARGET_DIR: its release folder is ours.
  install_bindgen() { env -u CARGO_TARGET_DIR cargo install wasm-bindgen-cli --version "$version" --force --root "$KALAMDB_TOOLS" "$@"; }
  install_bindgen --locked || {
    say "setup: its lock file cannot be met by this registry; trying without it"
    install_bindgen
  }
fi

# --- Python -------------------------------------------------------------------------------------------------------
# DuckDB and pyarrow answer the same questions in tests. The stamp names the interpreter too: a new one needs new wheels.
key=$(cat tests/python/requirements.txt <(python3 --version) | sha256sum | cut -d' ' -f1)
if [ "$(cat "$KALAMDB_PYTHON/.kalamdb-stamp" 2>/dev/null)" != "$key" ]; then
  install "DuckDB and pyarrow into $KALAMDB_PYTHON" "tests compare answers and exported files with theirs"
  rm -rf "$KALAMDB_PYTHON"
  python3 -m venv "$KALAMDB_PYTHON"
  "$KALAMDB_PYTHON/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r tests/python/requirements.txt
  say "$key" >"$KALAMDB_PYTHON/.kalamdb-stamp"
fi

# --- npm ----------------------------------------------------------------------------------------------------------
# The stamp lies in node_modules itself, so it cannot outlive what it vouches for.
for dir in $(npm_projects); do
  key=$(cat "$dir/package.json" "$dir/package-lock.json" <(node -p 'process.platform + process.arch + process.versions.modules') | sha256sum | cut -d' ' -f1)
  stamp=$dir/node_modules/.kalamdb-stamp
  if [ "$(cat "$stamp" 2>/dev/null)" != "$key" ]; then
    install "npm packages of $dir" "locked by $dir/package-lock.json"
    (cd "$dir" && npm ci --prefer-offline --no-audit --no-fund --loglevel=error)
    mkdir -p "$dir/node_modules"
    say "$key" >"$stamp"
  fi
done

# --- whose build the cache holds ----------------------------------------------------------------------------------
# Cargo names what it builds by its place in the workspace, so all clones share the cache, and it takes a clone's files
# for built when they are older than the build: even if that was another clone's. What the other one built of our own
# crate is forgotten here; the dependencies, which are the same, stay.
stamp=$CARGO_TARGET_DIR/.kalamdb-clone
if [ "$(cat "$stamp" 2>/dev/null)" != "$ROOT" ]; then
  mkdir -p "$CARGO_TARGET_DIR"
  find "$CARGO_TARGET_DIR" -maxdepth 4 -path '*/.fingerprint/kalamdb-*' -prune -exec rm -rf {} +
  say "$ROOT" >"$stamp"
fi

if [ "$changed" -eq 0 ]; then
  [ "${1:-}" = --quiet ] || say "setup: everything is there"
else
  say "setup: done"
fi
