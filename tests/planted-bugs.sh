#!/usr/bin/env bash
# Proves the crash simulation: bugs planted in production code must each be found.
#
#   tests/planted-bugs.sh [--seeds N] [BUG...]      default: 1000 seeds, all bugs
#
# A bug is code behind `crate::planted("BUG")`, which is false in every build but one with `--cfg planted`. There the
# variable FULMAR_PLANTED chooses the bug. The cfg is set for this crate alone, by a wrapper around its compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=1000
if [ "${1:-}" = --seeds ]; then
    seeds=$2
    shift 2
fi
bugs=("$@")
if [ "${#bugs[@]}" = 0 ]; then
    # Every bug that there is.
    mapfile -t bugs < <(grep -rhoE 'crate::planted\("[a-z_]+"\)' src | sed -E 's/.*"(.*)".*/\1/' | sort -u)
fi

out=$PWD/target/planted
mkdir -p "$out"
printf '#!/bin/sh\nexec "$@" --cfg planted\n' > "$out/rustc"
chmod +x "$out/rustc"
# The same target directory, so that dependencies are not built again; the result is told apart by the wrapper.
RUSTC_WORKSPACE_WRAPPER=$out/rustc cargo build --quiet --locked --example crash_sweep
cp "${CARGO_TARGET_DIR:-target}/debug/examples/crash_sweep" "$out/crash_sweep"
sweep=$out/crash_sweep

# Without a bug there is nothing to be found: otherwise the rest proves nothing.
if ! "$sweep" --seeds "$seeds" > "$out/none.txt" 2>&1; then
    echo "without a planted bug: $(grep -m 1 VIOLATION "$out/none.txt" || tail -n 1 "$out/none.txt")"
    exit 1
fi
missed=0
for bug in "${bugs[@]}"; do
    if FULMAR_PLANTED=$bug "$sweep" --seeds "$seeds" > "$out/$bug.txt" 2>&1; then
        echo "$bug: NOT FOUND within $seeds seeds"
        missed=$((missed + 1))
    else
        echo "$bug: $(grep -m 1 -E 'VIOLATION|panicked' "$out/$bug.txt" || tail -n 1 "$out/$bug.txt")"
    fi
done
echo "${#bugs[@]} planted, $missed not found"
[ "$missed" = 0 ]
