#!/usr/bin/env bash
# Writes manual pages and completions into target/assets, where the packages take them from.
#
#   packaging/assets.sh [BINARY]        default: target/release/fulmar
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${1:-target/release/fulmar}
out=target/assets
rm -rf "$out"
mkdir -p "$out/man" "$out/completions"
"$binary" man "$out/man"
"$binary" completions bash > "$out/completions/fulmar"
"$binary" completions zsh > "$out/completions/_fulmar"
"$binary" completions fish > "$out/completions/fulmar.fish"
