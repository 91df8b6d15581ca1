#!/usr/bin/env bash
# Builds the fuzz targets and runs each of them for so many executions; then says what was covered.
#
#   fuzz/run.sh [-n EXECUTIONS] [-t SECONDS] [-m] [TARGET...]
#
#   -n  executions of each target (default 10,000,000)
#   -t  at most so many seconds for each target (default: no limit)
#   -m  afterwards keep in the corpus, as found-*, what reaches something that it did not reach before
#
# A stable toolchain will do: coverage comes from LLVM's own pass, which RUSTC_BOOTSTRAP=1 allows to be configured. No
# sanitizer: fulmar has no unsafe code, so what there is to find are panics, overflows, endless loops and memory without
# bound. Needs a C++ compiler, for libFuzzer. Inputs that fail are kept in fuzz/artifacts/TARGET.
set -euo pipefail
cd "$(dirname "$0")"

executions=10000000 seconds=0 merge=false
while getopts n:t:m option; do
    case $option in
        n) executions=$OPTARG ;;
        t) seconds=$OPTARG ;;
        m) merge=true ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    targets=(packets frames messages chunks journal sim_spec handshake sealed session)
fi

triple=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1
# What cargo-fuzz passes, for a build without sanitizer.
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Ccodegen-units=1"
compares=-Cllvm-args=-sanitizer-coverage-trace-compares
# In whole sessions most comparisons are of times and counters: tracing them takes 40 % of the time and finds little. That
# target is built without, in a directory of its own.
for target in "${targets[@]}"; do
    if [ "$target" = session ]; then
        RUSTFLAGS=$flags cargo build --release --target "$triple" --target-dir target/plain --bin session
    else
        RUSTFLAGS="$flags $compares" cargo build --release --target "$triple" --bin "$target"
    fi
done

failed=0
for target in "${targets[@]}"; do
    echo "== $target"
    mkdir -p "artifacts/$target" "work/$target"
    log=work/$target.log
    bin=target/$triple/release
    [ "$target" != session ] || bin=target/plain/$triple/release
    "$bin/$target" -runs="$executions" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 \
        -max_len=4096 -print_final_stats=1 -artifact_prefix="artifacts/$target/" "work/$target" "corpus/$target" \
        > "$log" 2>&1 || failed=1
    grep -E '^stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)' "$log" || true
    # cov: edges of the program that were reached; ft: features, that is edges with how often.
    grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -n 1 || true
    sed -nE 's/^INFO: Loaded 1 PC tables \(([0-9]+) PCs\).*/edges in the program: \1/p' "$log"
    grep -E '^(SUMMARY|==[0-9]+== ERROR)|panicked at' "$log" || true
    if $merge; then
        mkdir -p "work/$target.merged"
        "$bin/$target" -merge=1 -max_len=512 "work/$target.merged" "corpus/$target" "work/$target" > /dev/null 2>&1
        for input in "work/$target.merged"/*; do
            [ -e "$input" ] || continue
            # libFuzzer names an input by the SHA-1 of its bytes.
            found=corpus/$target/found-$(basename "$input" | head -c 12)
            grep -qsF "$(sha1sum < "$input")" <(sha1sum "corpus/$target"/* | sed 's/  .*/  -/') || cp "$input" "$found"
        done
    fi
done
exit "$failed"
