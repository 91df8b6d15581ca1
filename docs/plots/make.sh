#!/usr/bin/env bash
# Makes the plots of docs/PERFORMANCE.md, on virtual time: the same on every machine, in some minutes.
#   docs/plots/make.sh [FULMAR]
set -euo pipefail
cd "$(dirname "$0")"
fulmar=${1:-../../target/release/fulmar}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$fulmar" bench window --progress never --json > "$work/window.json"
python3 plot.py window "$work/window.json" > window.svg
for rtt in 20 100 300; do
    "$fulmar" bench loss --rate 200mbit --rtt "${rtt}ms" --size 250MB --progress never --json > "$work/loss-$rtt.json"
done
python3 plot.py loss "$work"/loss-{20,100,300}.json > loss.svg
