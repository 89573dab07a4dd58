#!/usr/bin/env bash
# A C program builds with nothing but pkg-config, against the shared and the static library.
# The two libraries' ways to unwind work, without libgcc_s.so.1 as well.
# Environment: PREFIX, the installed library; PKG_CONFIG_PATH, where its uktls.pc is; UNWINDER, UNWINDERS: the Makefile's.
set -euo pipefail
cd "$(dirname "$0")/.."

cc=${CC:-cc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# build OUTPUT SOURCES AND FLAGS...
build() {
    local output=$1
    shift
    "$cc" -std=gnu11 -Wall -Wextra -Werror -o "$output" "$@"
}
needs_shared() { readelf -d "$1" | grep -q 'NEEDED.*\[libuktls\.so\.0\]'; }

read -ra shared < <(pkg-config --cflags --libs uktls)
# With both libraries in one directory the linker takes the shared one, so: a directory of its own.
mkdir "$work/static"
ln -s "$PREFIX/lib/libuktls.a" "$work/static/"
read -ra static < <(pkg-config --define-variable=libdir="$work/static" --static --cflags --libs uktls)

for source in examples-c/bulk-send.c c-tests/header/version.c; do
    name=$(basename "$source" .c)
    build "$work/$name-shared" "$source" "${shared[@]}"
    needs_shared "$work/$name-shared" || { echo "link: $name does not need libuktls.so.0" >&2; exit 1; }
    echo "link: $source, shared: ok"

    build "$work/$name-static" "$source" "${static[@]}"
    ! needs_shared "$work/$name-static" || { echo "link: static $name needs libuktls.so.0" >&2; exit 1; }
    echo "link: $source, static: ok"
done

for kind in shared static; do
    got=$("$work/bulk-send-$kind")
    [ "$got" = '268435456 bytes sent in 16384 records' ] || { echo "link: bulk-send, $kind: $got" >&2; exit 1; }
done
echo "link: examples-c/bulk-send.c runs: ok"

wanted=$(pkg-config --modversion uktls)
for kind in shared static; do
    got=$("$work/version-$kind")
    [ "$got" = "$wanted" ] || { echo "link: $kind library is $got, uktls.pc says $wanted" >&2; exit 1; }
done
echo "link: header, libraries and uktls.pc agree on version $wanted: ok"

rustc --edition 2024 --crate-type staticlib -C panic=unwind -o "$work/libpanics.a" tests/link/panics.rs
for flags in "$UNWINDER" "$UNWINDERS"; do
    read -ra unwinding <<<"$flags"
    sources=(tests/link/cancelled.c)
    [ "$flags" = "$UNWINDER" ] || sources+=(preload/c/unwind.c)
    build "$work/unwinds.so" "${sources[@]}" -shared -fPIC -fexceptions "${unwinding[@]}" -Wl,-z,defs \
        -Wl,--whole-archive "$work/libpanics.a" -Wl,--no-whole-archive
    ! readelf -d "$work/unwinds.so" | grep -q 'NEEDED.*libgcc_s' || { echo "link: $flags: needs libgcc_s" >&2; exit 1; }
    build "$work/unwinds" tests/link/unwinds.c "$work/unwinds.so" -lpthread
    got=$("$work/unwinds") || { echo "link: $flags: $got" >&2; exit 1; }
done
echo "link: panics and cancelled threads are unwound: ok"
