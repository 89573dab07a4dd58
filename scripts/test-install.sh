#!/usr/bin/env bash
# `make install` into a staging directory, as packagers do it; every function has a manual page; a
# program builds against it; `make uninstall` leaves nothing. What is installed is what `make` built.
set -euo pipefail
cd "$(dirname "$0")/.."

cc=${CC:-cc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
lib=$work/usr/lib/multiarch
run() { make -s "$1" DESTDIR="$work" PREFIX=/usr LIBDIR=/usr/lib/multiarch INCDIR=/usr/include \
    MANDIR=/usr/share/man DOCDIR=/usr/share/doc/uktls; }
fail() { echo "install: $1" >&2; exit 1; }

run install
for file in lib/multiarch/{libuktls.so,libuktls.so.0,libuktls.a,pkgconfig/uktls.pc} include/uktls.h \
    share/man/man7/uktls.7 share/doc/uktls/examples/{https-server.c,uktls_openssl.h}; do
    [ -s "$work/usr/$file" ] || fail "no $file"
done
for name in $(sed 's/@@.*//' abi/uktls.symbols); do
    [ -s "$work/usr/share/man/man3/$name.3" ] || fail "no manual page for $name"
done
for page in "$work"/usr/share/man/man3/*; do
    ! target=$(sed -n '1s/^\.so //p' "$page") || [ -z "$target" ] || [ -s "$work/usr/share/man/$target" ] ||
        fail "${page##*/} refers to $target"
done
echo 'install: files and manual pages: ok'

! grep -q "$work" "$lib/pkgconfig/uktls.pc" || fail 'uktls.pc names the staging directory'
read -ra flags < <(PKG_CONFIG_SYSROOT_DIR=$work PKG_CONFIG_PATH=$lib/pkgconfig pkg-config --cflags --libs uktls)
"$cc" -o "$work/version" c-tests/header/version.c "${flags[@]}"
LD_LIBRARY_PATH=$lib "$work/version" >/dev/null || fail 'the program does not run'
rm "$work/version"
echo 'install: a program builds against it: ok'

run uninstall
left=$(find "$work" ! -type d)
[ -z "$left" ] || fail "uninstall leaves $left"
echo 'install: uninstall leaves no file: ok'
