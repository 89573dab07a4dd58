#!/usr/bin/env bash
# The real kernel as referee: what the probe says over the kernel's kTLS, in an emulated machine,
# against what it says over this library. Nothing is skipped: what cannot run is a failure.
#
# Environment: PREFIX, the installed library; PKG_CONFIG_PATH; LD_LIBRARY_PATH; REFEREE_TIMEOUT and
# KERNEL_PACKAGE as in vm/boot.sh.
# Usage: tests/referee/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

: "${PREFIX:?the installed library: make stage, then PREFIX=build/stage}"
export WORK=$PWD/build/referee
export LC_ALL=C
here=tests/referee
failed=0
not_ok() { echo "FAIL $*" >&2; failed=1; }

mkdir -p "$WORK"
make --no-print-directory -s -C "$here" BUILD="$WORK" all "$WORK/probe-capi"

# --- the kernel ---------------------------------------------------------------------------------

rm -f "$WORK"/*.out "$WORK"/*.status "$WORK"/*.stats "$WORK"/*.tls_stat
preload=$PREFIX/lib/libuktls_preload.so
STAGE=$PREFIX "$here/vm/boot.sh"
[ "$(cat "$WORK/kernel.out.status")" = 0 ] || not_ok 'the probe over the kernel did not end well: kernel.out'

# --- this library -------------------------------------------------------------------------------

# judge NAME LIST...: the observations in NAME.out
judge() {
    local name=$1
    shift
    echo "referee: $name"
    "$here/compare.py" "$WORK/kernel.out" "$WORK/$name.out" "$here/differences" "$@" ||
        not_ok "$name is not what the kernel does, or the list of differences is wrong"
}

# The probe tells by its exit status that a case crashed or hung; its lines say which, and are judged.
timeout --kill-after=10 400 "$WORK/probe-capi" >"$WORK/capi.out" || true
judge capi "$here/differences.capi"

timeout --kill-after=10 400 env LD_PRELOAD="$preload" UKTLS_MODE=always "$WORK/probe" >"$WORK/preload.out" || true
judge preload "$here/differences.preload"
# The same over the kernel of the machine, so that all but TLS is the same kernel's.
judge always "$here/differences.preload"
# With UKTLS_MODE=auto the kernel's own kTLS does it all.
"$here/auto.py" "$WORK" || not_ok 'UKTLS_MODE=auto did not leave TLS to the kernel'
[ "$failed" = 0 ] && echo 'referee: all in order'
exit "$failed"
