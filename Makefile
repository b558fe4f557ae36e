# KalamDB. `make` alone prints what there is; every target does the setup it needs.
#
# Nothing is kept in the clone that another clone could use: cargo's target folder, npm's cache and the tools live in a
# user cache folder, which scripts/lib.sh names too (the scripts work without make).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup build demo test check bench fmt sizes clean

export KALAMDB_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kalamdb
export KALAMDB_TOOLS ?= $(KALAMDB_CACHE)/tools
export CARGO_TARGET_DIR ?= $(KALAMDB_CACHE)/target
export npm_config_cache ?= $(KALAMDB_CACHE)/npm
export PATH := $(KALAMDB_TOOLS)/bin:$(PATH)

# wasm: no LTO, a quick build for daily use and tests. release: what ships (12 minutes, 9 GB of memory).
PROFILE ?= wasm
# 1 keeps the function names in pkg/, for profilers and for `make sizes`.
KEEP_NAMES ?=
export PROFILE KEEP_NAMES

help: ## print this list
	@echo "KalamDB: a SQL database that runs where the app runs"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo; echo "  cache: $(KALAMDB_CACHE)"

setup: ## install what a fresh Debian machine with git, rustup and Node 20 lacks; says what and why
	@scripts/setup.sh

build: ## build pkg/ and the npm package; PROFILE=release builds what ships and holds it to size-budget.json
	@scripts/setup.sh --quiet
	@scripts/build.sh

demo: build ## the thin line in headless Chromium: three million flights into IndexedDB, five queries, a restart
	@node scripts/demo.mjs

test: ## everything: check, native tests, wasm tests in Chromium, SDK, browser end to end, README tour
	@scripts/setup.sh --quiet
	@scripts/test.sh

check: ## rustfmt, clippy for native and wasm32, biome, tsc, licences and advisories
	@scripts/setup.sh --quiet
	@scripts/check.sh

bench: ## build the release profile, then measure it beside its peers in Chromium, the demo, and the registry
	@$(MAKE) --no-print-directory build PROFILE=release
	@node scripts/bench.mjs
	@scripts/bench-browser.sh
	@CI=1 node scripts/demo.mjs
	@cargo bench --bench registry
	@scripts/wasm-test.sh --test bench_registry -- --nocapture

fmt: ## format the Rust and JavaScript sources and repair what the linter can
	@scripts/setup.sh --quiet
	@cargo fmt
	@npx --no-install biome check --write

sizes: ## sum the code of the last release build by crate
	@node scripts/size-by-crate.mjs

clean: ## remove what was built in this clone; the shared cache stays (its path: make help)
	find pkg -mindepth 1 -not -name README.md -delete
	rm -rf artifacts sdks/typescript/dist www/dist tests/browser/dist
	rm -rf node_modules sdks/typescript/node_modules www/node_modules tests/browser/node_modules
