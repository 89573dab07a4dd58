#!/usr/bin/env bash
# Programs whose library has no memory left.
# Usage: run.sh PREFIX BUILD FIRST LAST STEP TESTS EVERY...: turns that fail from the n-th allocation on, n from FIRST to LAST, and those
# of the C tests in BUILD which TESTS names ("all") with each EVERY-th allocation failing.
set -euo pipefail

[ $# -ge 7 ] || { sed -n 3,4p "$0" >&2; exit 2; }
# Where the C tests look for their files.
cd "$(dirname "$0")/.."
library=$1/lib build=$2 first=$3 last=$4 step=$5 tests=$6
shift 6
export LD_LIBRARY_PATH=$library UKTLS_LINGER_MS=2000
own=$build/shortage
preloaded=(env "LD_PRELOAD=$library/libuktls_preload.so" UKTLS_MODE=always)

for engine in inline threads auto; do
    export UKTLS_ENGINE=$engine
    for how in '' nothing cold 'cold nothing'; do
        echo "shortage: engine $engine ${how:+, $how}"
        read -ra words <<<"$how"
        "$own/shortage" "$first" "$last" "$step" "${words[@]}"
        "${preloaded[@]}" "$own/shortage_preload" "$first" "$last" "$step" "${words[@]}"
    done
done
for how in many exhausted; do
    "$own/shortage" "$how"
    "${preloaded[@]}" "$own/shortage_preload" "$how"
done
unset UKTLS_ENGINE

# New regions can be mapped, so the library helps itself: no call fails, and no test expects one to.
if [ "$tests" = all ]; then
    programs=("$build"/test_*)
else
    read -ra names <<<"$tests"
    programs=("${names[@]/#/$build/test_}")
fi
report=$(mktemp)
trap 'rm -f "$report"' EXIT
for n in "$@"; do
    : >"$report"
    for program in "${programs[@]}"; do
        echo "shortage: $program, each $n-th allocation fails"
        LD_PRELOAD=$own/failing.so UKTLS_TEST_FAIL_EVERY=$n UKTLS_TEST_FAIL_REPORT=$report "$program"
    done
    awk '{ sum += $1 } END { print "shortage: " sum " allocations failed"; exit !sum }' "$report"
done
