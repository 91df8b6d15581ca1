#!/usr/bin/env bash
# What CI runs and what a contributor runs. `./ci.sh --long` adds the long sweeps.
set -euo pipefail
cd "$(dirname "$0")"
cargo fmt --all -- --check
cargo clippy --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
cargo test --all-targets
