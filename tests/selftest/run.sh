#!/usr/bin/env bash
# The kernel's own selftest of kTLS (tools/testing/selftests/net/tls.c) over the preload library. It is GPL, so
# it is taken from Debian's source package at run time and never copied into this tree.
#
# A test that the kernel's TLS is missing for passes on plain TCP: so each must have given keys to the library.
# What may fail is listed in `differences`, by name and with the reason, and has to fail.
#
# Environment: PREFIX, the installed library; CC.
# Usage: tests/selftest/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

: "${PREFIX:?the installed library: make stage, then PREFIX=build/stage}"
here=tests/selftest
work=$PWD/build/selftest
source=/usr/src/linux-source-6.1.tar.xz
preload=$(realpath "$PREFIX")/lib/libuktls_preload.so
limit=${SELFTEST_TIMEOUT:-600}
export LC_ALL=C

fail() { echo "selftest: $*" >&2; exit 1; }

# --- build --------------------------------------------------------------------------------------

mkdir -p "$work"
if [ ! "$work/unpacked" -nt "$source" ]; then
    echo "selftest: unpacking $source"
    rm -rf "$work/src"
    mkdir "$work/src"
    root=linux-source-6.1/tools/testing/selftests
    tar -xJf "$source" -C "$work/src" --strip-components=4 \
        "$root/net/tls.c" "$root/kselftest.h" "$root/kselftest_harness.h"
    touch "$work/unpacked"
fi
awk -f "$here/generations.awk" "$work/src/net/tls.c" >"$work/src/net/tls-built.c"
options=(-O2 -w -I/usr/include)
# Another thing that Debian's 6.1 calls and does not have; newer harnesses define it.
grep -q 'define __test_passed\|__test_passed(struct' "$work/src/kselftest_harness.h" ||
    options+=('-D__test_passed(m)=((m)->passed)')
"${CC:-cc}" "${options[@]}" -o "$work/tls" "$work/src/net/tls-built.c"

# --- run ----------------------------------------------------------------------------------------

rm -f "$work/stats" "$work/log"
# A child of a failed test may print for ever: the output is cut off, and the writer is told by SIGPIPE.
{
    timeout --kill-after=5 "$limit" env LD_PRELOAD="$preload" UKTLS_MODE=always UKTLS_STATS_FILE="$work/stats" \
        "$work/tls" 2>&1 || echo "exit status $?"
} | head -c 4000000 >"$work/out" || true

"$here/judge.py" "$work/out" "$work/stats" "$here/differences"
