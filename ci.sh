#!/usr/bin/env bash
# What CI runs and what a contributor runs: format, lints, documentation, benches, tests.
#
#   ./ci.sh           all of it; the last line counts the tests
#   ./ci.sh --long    the same, the sweeps over many more seeds, and the packages built and installed
#
# Tests that need root or a tool that is not there are skipped, named, and counted. As root none should be.
set -euo pipefail
cd "$(dirname "$0")"

long=false
for argument in "$@"; do
    case $argument in
        --long) long=true ;;
        *)
            echo "ci.sh: unknown argument '$argument'; give --long or nothing" >&2
            exit 2
            ;;
    esac
done

step() { printf '\n== %s\n' "$*"; }

passed=0 failed=0
# Adds up "test result: ok. 5 passed; 0 failed; 1 ignored; ..." of cargo test. What is ignored are measurements.
count_cargo_test() {
    local p f
    while read -r p f; do
        passed=$((passed + p)) failed=$((failed + f))
    done < <(sed -nE 's/^test result: [^.]*\. ([0-9]+) passed; ([0-9]+) failed.*/\1 \2/p' "$1")
}
# The same for nextest: "Summary [ 9.1s] 300 tests run: 299 passed (1 slow), 1 failed, 1 timed out, 2 skipped".
count_nextest() {
    local line word n
    line=$(sed -E 's/\x1b\[[0-9;]*m//g' "$1" | grep -E '^ *Summary ' | tail -n 1 || true)
    for word in passed failed 'timed out' 'exec failed'; do
        n=$(grep -oE "[0-9]+ $word" <<< "$line" | head -n 1 | grep -oE '[0-9]+' || echo 0)
        if [ "$word" = passed ]; then passed=$((passed + n)); else failed=$((failed + n)); fi
    done
}

mkdir -p target
log=target/ci-tests.log
FULMAR_SKIP_LIST=$PWD/target/ci-skipped.txt
export FULMAR_SKIP_LIST
: > "$FULMAR_SKIP_LIST"
status=0 skipped=0

step "format"
cargo fmt --all -- --check

# clippy and doc share the check artefacts of the dependencies, tests and benches the built ones.
step "lints"
cargo clippy --locked --all-targets -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

# What tests/dependencies.rs says, and more; where it is installed.
if cargo deny --version > /dev/null 2>&1; then
    step "dependencies"
    cargo deny --offline check bans licenses sources
fi

step "tests, and benches that compile"
if cargo nextest --version > /dev/null 2>&1; then
    # Benches and examples are built with the tests, and run once each, as tests.
    cargo nextest run --locked --all-targets --no-fail-fast --status-level slow 2>&1 | tee "$log" || status=1
    count_nextest "$log"
else
    cargo test --locked --all-targets --no-fail-fast 2>&1 | tee "$log" || status=1
    count_cargo_test "$log"
fi

step "examples in the documentation"
cargo test --locked --doc 2>&1 | tee "$log" || status=1
count_cargo_test "$log"

step "examples"
for example in upload drop_point mirror channels simulated_link; do
    if cargo run --quiet --locked --example "$example" > "$log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1)) status=1
        echo "example $example failed:"
        tail -n 20 "$log"
    fi
done

step "shipping: manual pages, completions, unit, packages"
shipping=()
if $long; then shipping=(--long); fi
if packaging/check.sh "${shipping[@]}"; then
    # What it skipped stands in the list, as of a test that has passed in the eyes of its runner.
    passed=$((passed + 1 + $(grep -c 'packaging/check.sh' "$FULMAR_SKIP_LIST" || true)))
else
    failed=$((failed + 1)) status=1
fi

step "vectors, against an independent implementation"
python=
for candidate in python3 /usr/bin/python3 python; do
    if "$candidate" -c 'import cryptography, spake2' > /dev/null 2>&1; then
        python=$candidate
        break
    fi
done
if [ -n "$python" ]; then
    if "$python" tests/vectors/check.py; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1)) status=1
    fi
else
    echo "SKIPPED: tests/vectors/check.py: needs python with the packages cryptography and spake2"
    skipped=1
fi

step "crashes, disk faults, bad links, strangers: a sweep over seeds"
if cargo run --locked --quiet --example crash_sweep -- --seeds 2000 2>&1 | tee "$log"; then
    passed=$((passed + 1))
else
    failed=$((failed + 1)) status=1
fi

step "netem: uploads and windows through the kernel's own bad links"
# In user-mode-linux where this kernel has no netem; the binary is the one that the tests have built.
code=0
if linux.uml --version > /dev/null 2>&1 && command -v ethtool > /dev/null && command -v tc > /dev/null; then
    timeout 400 netem-scripts/netem-matrix.sh --quick --uml --fulmar target/debug/fulmar --out target/netem || code=$?
else
    code=3
fi
case $code in
    0) passed=$((passed + 1)) ;;
    3) echo "SKIPPED: netem-scripts/netem-matrix.sh: needs user-mode-linux, iproute2 and ethtool" >> "$FULMAR_SKIP_LIST"
        # What stands in the list is taken off below.
        passed=$((passed + 1)) ;;
    *) failed=$((failed + 1)) status=1 ;;
esac

if $long; then
    step "planted bugs are found"
    if tests/planted-bugs.sh; then passed=$((passed + 1)); else failed=$((failed + 1)) status=1; fi

    step "long sweep: crashes and faults with other seeds"
    if cargo run --locked --quiet --release --example crash_sweep -- --seeds 200000 --from 1000000; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1)) status=1
    fi

    step "long sweeps: the simulated matrix with other seeds"
    for seed in {1..40}; do
        echo "-- FULMAR_SEED=${seed}000000"
        FULMAR_SEED=${seed}000000 cargo test --locked --lib -- --quiet sim:: 2>&1 | tee "$log" || status=1
        count_cargo_test "$log"
    done
fi

step "summary"
sort "$FULMAR_SKIP_LIST"
# A test that skips itself has passed in the eyes of the runner.
in_list=$(wc -l < "$FULMAR_SKIP_LIST")
passed=$((passed - in_list)) skipped=$((skipped + in_list))
if [ "$failed" -gt 0 ]; then
    status=1
elif [ "$status" -ne 0 ]; then
    # Something did not even build.
    failed=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit "$status"
