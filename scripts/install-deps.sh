#!/usr/bin/env bash
# Installs what `make demo`, `make test` and other targets need beside Rust, by apt-get, and only what is missing.
# Usage: scripts/install-deps.sh [demo|test|bench|referee|arm64|programs|unchanged|bench-programs]
set -euo pipefail

set_name=${1:-test}
missing=()

# need PACKAGE COMMAND...: the package is missing when the command fails.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
has() { command -v "$1"; }
compiles() { printf '#include <stddef.h>\n#include <stdarg.h>\n#include <setjmp.h>\n#include <stdint.h>\n#include <%s>\n' "$1" | cc -E -; }

need build-essential has make
need build-essential has cc
need build-essential has c++
need build-essential compiles linux/tls.h
need pkg-config has pkg-config
need libssl-dev pkg-config --exists libssl libcrypto
need openssl has openssl
need curl has curl
case $set_name in
demo) ;;
bench)
    need libgnutls28-dev pkg-config --exists gnutls
    ;;
referee)
    need qemu-system-x86 has qemu-system-x86_64
    need kmod has depmod
    need xz-utils has xz
    need cpio has cpio
    need python3 has python3
    ;;
arm64)
    need gcc-aarch64-linux-gnu has aarch64-linux-gnu-gcc
    need libc6-dev-arm64-cross test -f /usr/aarch64-linux-gnu/include/stdio.h
    need qemu-system-arm has qemu-system-aarch64
    need cpio has cpio
    ;;
test)
    need libcmocka-dev compiles cmocka.h
    need gnutls-bin has gnutls-cli
    need valgrind has valgrind
    need libc6-dbg test -d /usr/lib/debug/.build-id
    need clang has clang
    need mandoc has mandoc
    need python3 has python3
    need linux-source-6.1 test -f /usr/src/linux-source-6.1.tar.xz
    need xz-utils has xz
    need nginx-light has nginx
    ;;
programs)
    need python3 has python3
    need nginx-light has nginx
    need redis-server has redis-server
    need redis-tools has redis-cli
    need lighttpd has lighttpd
    need lighttpd-mod-openssl test -f /usr/lib/lighttpd/mod_openssl.so
    need lighttpd-mod-webdav test -f /usr/lib/lighttpd/mod_webdav.so
    need stunnel4 has stunnel4
    need postgresql test -d /usr/lib/postgresql
    need nodejs has node
    need wget has wget
    need mosquitto has mosquitto
    need mosquitto-clients has mosquitto_pub
    need haproxy has haproxy
    need default-jdk-headless has javac
    ;;
unchanged)
    need git has git
    need python3 has python3
    need libpython3-testsuite python3 -c 'import test.test_socket'
    ;;
bench-programs)
    need python3 has python3
    need python3-matplotlib /usr/bin/python3 -c 'import matplotlib'
    need nginx-light has nginx
    need wrk has wrk
    ;;
*)
    echo "usage: $0 [demo|test|referee|programs]" >&2
    exit 2
    ;;
esac

if ! command -v cargo >/dev/null; then
    echo "install-deps: cargo is missing; install Rust 1.88 or newer" >&2
    exit 1
fi
[ ${#missing[@]} -eq 0 ] && exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if ! command -v apt-get >/dev/null; then
    echo "install-deps: this is no Debian; install by hand what these packages hold: ${missing[*]}" >&2
    exit 1
fi

as_root=(env DEBIAN_FRONTEND=noninteractive)
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install-deps: neither root nor sudo; have an administrator install: ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo "${as_root[@]}")
    [ -t 0 ] || as_root=(sudo -n "${as_root[@]:1}")
fi

echo "install-deps: installing ${missing[*]}"
# The servers are for the tests, which start them by themselves: Debian asks this file before it starts one.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
"${as_root[@]}" apt-get update -q </dev/null
"${as_root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}" </dev/null
