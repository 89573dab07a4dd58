#!/usr/bin/env bash
# Runs test programs under the preload library, once per engine.
# Usage: run.sh LIBRARY ENGINES PROGRAM...
set -euo pipefail

library=$1 engines=$2
shift 2
[ $# -gt 0 ] || { echo 'c-tests/preload: no programs' >&2; exit 1; }
# How long a process waits at its end for a reader that does not read.
export UKTLS_LINGER_MS=2000
for program in "$@"; do
    for engine in $engines; do
        echo "c-tests: $program with engine $engine"
        LD_PRELOAD=$library UKTLS_MODE=always UKTLS_ENGINE=$engine UKTLS_TEST_PRELOAD=$library "$program"
    done
done
