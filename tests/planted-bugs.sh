#!/usr/bin/env bash
# Proves the crash simulation: bugs planted in production code must each be found.
#
#   tests/planted-bugs.sh [--seeds N] [BUG...]      default: 1000 seeds, all bugs
#
# A bug is code behind `cfg!(planted = "BUG")`, which no ordinary build has. It is turned on for this crate alone, by a
# wrapper around its compiler, so that dependencies are built once. By hand:
#
#   RUSTFLAGS='--cfg planted="no_fsync"' cargo run --release --example crash_sweep -- --seeds 1000
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=1000
profile=${PLANTED_PROFILE:-dev}
if [ "${1:-}" = --seeds ]; then
    seeds=$2
    shift 2
fi
bugs=("$@")
if [ "${#bugs[@]}" = 0 ]; then
    # Every bug that there is.
    mapfile -t bugs < <(grep -rhoE 'planted = "[a-z_]+"' src | sed -E 's/.*"(.*)"/\1/' | sort -u)
fi

out=target/planted
mkdir -p "$out"
missed=()
for bug in "${bugs[@]}"; do
    wrapper=$PWD/$out/rustc-$bug
    printf '#!/bin/sh\nexec "$@" --cfg '"'"'planted="%s"'"'"'\n' "$bug" > "$wrapper"
    chmod +x "$wrapper"
    RUSTC_WORKSPACE_WRAPPER=$wrapper cargo build --quiet --locked --profile "$profile" --target-dir "$out/build" \
        --example crash_sweep
    sweep=$out/build/debug/examples/crash_sweep
    [ "$profile" = dev ] || sweep=$out/build/$profile/examples/crash_sweep
    if "$sweep" --seeds "$seeds" > "$out/$bug.txt" 2>&1; then
        echo "$bug: NOT FOUND within $seeds seeds"
        missed+=("$bug")
    else
        echo "$bug: $(grep -m 1 VIOLATION "$out/$bug.txt" || tail -n 1 "$out/$bug.txt")"
    fi
done
echo "${#bugs[@]} planted, ${#missed[@]} not found"
[ "${#missed[@]}" = 0 ]
