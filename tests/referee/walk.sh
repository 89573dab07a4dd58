#!/usr/bin/env bash
# Random calls (walk.c) over the kernel's kTLS, in an emulated machine, and over this library: what
# came back has to be the same, call by call.
#
# Environment: as for run.sh; WALKS, "FIRST COUNT" (seeds), 0 100 by default.
# Usage: tests/referee/walk.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

: "${PREFIX:?the installed library: make stage, then PREFIX=build/stage}"
export WORK=$PWD/build/referee LC_ALL=C WALKS=${WALKS:-0 100} REFEREE_TIMEOUT=${REFEREE_TIMEOUT:-3000}
here=tests/referee
mkdir -p "$WORK"
make --no-print-directory -s -C "$here" BUILD="$WORK" all "$WORK/probe-capi"
rm -f "$WORK"/walk-*.out*
STAGE=$PREFIX "$here/vm/boot.sh"
# shellcheck disable=SC2086 # two numbers
"$WORK/probe-capi" --walk $WALKS >"$WORK/walk-capi.out"
status=0
for engine in inline threads auto; do
    # shellcheck disable=SC2086
    LD_PRELOAD=$PREFIX/lib/libuktls_preload.so UKTLS_MODE=always UKTLS_ENGINE=$engine \
        "$WORK/probe" --walk $WALKS >"$WORK/walk-$engine.out"
done
for name in always capi inline threads auto; do
    echo "walks: $name"
    "$here/walk.py" "$WORK/walk-kernel.out" "$WORK/walk-$name.out" || status=1
done
exit "$status"
