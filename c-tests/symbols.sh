#!/usr/bin/env bash
# The shared library exports what abi/uktls.symbols lists and include/uktls.h declares: no more, no
# less. Environment: PREFIX, the installed library; SONAME, the name it has to have.
set -euo pipefail
cd "$(dirname "$0")/.."

library=$PREFIX/lib/libuktls.so
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0

# same WHAT WANTED GOT: shows how two lists differ.
same() {
    if diff -u --label "$2" --label "$3" "$work/$2" "$work/$3"; then
        echo "symbols: $1: ok"
    else
        echo "symbols: $1: FAILED" >&2
        status=1
    fi
}

sort abi/uktls.symbols >"$work/listed"
# The version's own name is an absolute symbol (type A).
nm -D --defined-only --with-symbol-versions "$library" | awk '$2 != "A" { print $3 }' | sort >"$work/exported"
sed 's/@@.*//' "$work/exported" >"$work/exported-names"
# What the preprocessor leaves of the header itself, by its line markers, without comments.
printf '#include <uktls.h>\n' | cc -E -I"$PREFIX/include" - |
    awk '/^# [0-9]+ "/ { own = ($3 ~ /\/uktls\.h"$/); next } own' |
    grep -oE '[A-Za-z_][A-Za-z0-9_]* *\(' | tr -d ' (' | grep -vx '__attribute__' | sort >"$work/declared"

[ -s "$work/declared" ] || { echo "symbols: no function found in uktls.h" >&2; exit 1; }
same "exported symbols are those of abi/uktls.symbols" listed exported
same "exported functions are those of uktls.h" declared exported-names

dynamic=$(readelf -dW "$library")
for wanted in "Library soname: \[$SONAME\]" 'NODELETE' 'BIND_NOW|FLAGS.* NOW'; do
    if grep -qE "$wanted" <<<"$dynamic"; then
        echo "symbols: dynamic section has $wanted: ok"
    else
        echo "symbols: dynamic section lacks $wanted: FAILED" >&2
        status=1
    fi
done
needs=$(sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' <<<"$dynamic" | grep -v '^ld-linux-' | sort | xargs)
if [ "$needs" = 'libc.so.6 libcrypto.so.3' ]; then
    echo "symbols: it needs $needs: ok"
else
    echo "symbols: it needs $needs: FAILED" >&2
    status=1
fi
if readelf -lW "$library" | grep -q GNU_RELRO; then
    echo "symbols: relocations are read-only: ok"
else
    echo "symbols: no GNU_RELRO segment: FAILED" >&2
    status=1
fi
exit $status
