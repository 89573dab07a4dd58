#!/usr/bin/env bash
# The libraries on arm64 with pages of 16 KiB: cross-built here, and tried by C tests in an emulated machine.
#
# What is not of this architecture comes from Debian by packages, into WORK and nowhere else: the C library and OpenSSL of
# Debian 12, the kernel of Debian 13.
#
# Environment: WORK, a directory for what is fetched and made; ARM64_TIMEOUT, seconds; ARM64_CORE and ARM64_PRELOAD, the tests;
# ARM64_KERNEL, the pattern of the kernel's package (linux-image-*-arm64 has pages of 4 KiB).
# Usage: tests/arm64/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

export LC_ALL=C
work=${WORK:-$PWD/build/arm64}
limit=${ARM64_TIMEOUT:-1500}
# Not test_memory, which lays out pages of 4 KiB, and not test_twins, as the C library has some of its names on x86-64 only.
core=${ARM64_CORE:-arguments init send recv fork fork_recv sharing files options keys closing}
preload=${ARM64_PRELOAD:-tables syscall around races stdio children numbers signals exit memory}
kernels=${ARM64_KERNEL:-'linux-image-6\.[0-9.]+\+deb13-arm64-16k'}
triple=aarch64-unknown-linux-gnu
root=$work/root
sys=$work/system
tests=$work/c-tests
console=$work/console.log

fail() { echo "arm64: $*" >&2; exit 1; }

# --- what comes from Debian, once ----------------------------------------------------------------

apt=$work/apt
options=(-q -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o APT::Architecture=arm64
    -o APT::Architectures=arm64 -o "Dir::State=$apt" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt")
if [ ! -f "$sys/complete" ]; then
    rm -rf "$sys" "$apt"
    mkdir -p "$sys" "$apt/lists/partial" "$apt/archives/partial" "$apt/deb"
    : >"$apt/status"
    for release in bookworm trixie; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $release main"
    done >"$apt/sources.list"
    apt-get "${options[@]}" update >"$apt/log" 2>&1 || fail "no lists of packages: $(tail -n 3 "$apt/log")"
    kernel=$(apt-cache "${options[@]}" pkgnames linux-image-6 | grep -Ex "$kernels" | sort -V | tail -n 1 || true)
    [ -n "$kernel" ] || fail "no kernel $kernels"
    echo "arm64: fetching $kernel and libraries"
    # apt drops its rights where it cannot use them here, and says so.
    (cd "$apt/deb" && apt-get "${options[@]}" download "$kernel" {libc6,libc-bin,libgcc-s1,libssl3,libssl-dev,libcmocka0,libcmocka-dev,busybox-static}/bookworm \
        >"$apt/log" 2>&1) || fail "$(tail -n 3 "$apt/log")"
    for package in "$apt"/deb/*.deb; do
        dpkg-deb -x "$package" "$sys"
    done
    cp "$sys/usr/include/aarch64-linux-gnu/openssl/"* "$sys/usr/include/openssl/"
    touch "$sys/complete"
fi

# --- the libraries and the tests --------------------------------------------------------------------

cross=aarch64-linux-gnu-gcc
libs=$sys/usr/lib/aarch64-linux-gnu
rustup target add "$triple" >/dev/null 2>&1 || fail "no Rust for $triple"
export CARGO_TARGET_DIR=$work/target CARGO_BUILD_TARGET=$triple CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$cross
export CC_aarch64_unknown_linux_gnu=$cross AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar
export OPENSSL_LIB_DIR=$libs OPENSSL_INCLUDE_DIR=$sys/usr/include
export PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_LIBDIR=$libs/pkgconfig
version=$(sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
# No -L of pkg-config's: it names where the library would be installed.
make --no-print-directory -s BUILD="$work/build" TARGET="$work/target/$triple" CC="$cross" LDFLAGS="-L$libs -Wl,-rpath-link,$libs" \
    "$work/build/lib/libuktls_preload.so" "$work/build/lib/libuktls.so.$version"

includes="-I$sys/usr/include -D_GNU_SOURCE"
link="-L$work/build/lib -L$libs -Wl,-rpath-link,$libs -Wl,--as-needed"
programs=()
for name in $core; do programs+=("$tests/test_$name"); done
make --no-print-directory -s -C c-tests PACKAGES=libcrypto BUILD="$tests" CC="$cross" CPPFLAGS="-I../include $includes" \
    LDLIBS="$link -luktls -lcmocka -lssl -lcrypto -lpthread" "${programs[@]}"
programs=()
for name in $preload; do programs+=("$tests/preload/test_$name"); done
for name in plugin_early plugin_finder plugin_company beside/plugin_found; do programs+=("$tests/preload/$name.so"); done
# A register of a system call's is none that has to outlive a vfork, whatever the compiler says.
make --no-print-directory -s -C c-tests/preload CFLAGS='-O2 -g -Wno-clobbered' BUILD="$tests/preload" CC="$cross" CPPFLAGS="-I.. -I../../include $includes" \
    LDLIBS="$link -lcmocka -lcrypto -lpthread -ldl" "${programs[@]}"
"$cross" -O1 -o "$work/page-size" -x c - <<'C'
#include <stdio.h>
#include <unistd.h>
int main(void) { return printf("%ld\n", sysconf(_SC_PAGESIZE)) < 0; }
C

# --- what is in the machine ---------------------------------------------------------------------------

rm -rf "$root"
mkdir -p "$root"/{bin,lib,dev,proc,sys,tmp,t/preload,usr/lib/locale}
cp -r "$sys/usr/lib/locale/C.utf8" "$root/usr/lib/locale/"
cp "$sys/bin/busybox" "$root/bin/"
for name in sh mount mkdir ip timeout grep cat sed tail env true rm ls; do ln -s busybox "$root/bin/$name"; done
for library in ld-linux-aarch64.so.1 libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libutil.so.1 libgcc_s.so.1; do
    cp -L "$sys/lib/aarch64-linux-gnu/$library" "$root/lib/"
done
cp -L "$libs"/lib{crypto,ssl}.so.3 "$libs"/libcmocka.so.0 "$work"/build/lib/{libuktls_preload.so,libuktls.so.0} "$root/lib/"
aarch64-linux-gnu-strip --strip-debug "$root"/lib/libuktls*
for name in $core; do cp "$tests/test_$name" "$root/t/"; done
for name in $preload; do cp "$tests/preload/test_$name" "$root/t/preload/"; done
cp -r "$tests"/preload/{plugin_*.so,beside} "$root/t/preload/"
cp "$work/page-size" "$root/bin/"
cat >"$root/init" <<'INIT'
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
ip link set lo up
ulimit -n 1024
export PATH=/bin LD_LIBRARY_PATH=/lib HOME=/tmp UKTLS_TEST_SLOW=1
echo "=== pages $(page-size)"
run() {
    timeout 600 env "$@" >/tmp/log 2>&1
    status=$?
    echo "=== $test status $status passed $(grep -c '  OK ]' /tmp/log) failed $(grep -c 'FAILED  ] test' /tmp/log)"
    [ "$status" = 0 ] || tail -n 60 /tmp/log
}
for file in /t/test_*; do
    test=$file run "$file"
done
for file in /t/preload/test_*; do
    test=$file run LD_PRELOAD=/lib/libuktls_preload.so UKTLS_MODE=always UKTLS_LINGER_MS=2000 UKTLS_TEST_PRELOAD=/lib/libuktls_preload.so "$file"
done
echo "=== all"
busybox poweroff -f
INIT
chmod 755 "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$work/initramfs.gz"

# --- the machine -----------------------------------------------------------------------------------------

: >"$console"
echo "arm64: booting $(basename "$sys"/boot/vmlinuz-*)"
timeout --kill-after=10 "$limit" qemu-system-aarch64 -M virt -accel tcg -cpu cortex-a76 -smp 2 -m 1536 -nodefaults -no-reboot \
    -display none -monitor none -serial "file:$console" -kernel "$sys"/boot/vmlinuz-* -initrd "$work/initramfs.gz" \
    -append 'console=ttyAMA0 loglevel=4 panic=-1 rdinit=/init' </dev/null &
machine=$!
# The machine is ended with us.
trap 'kill "$machine" 2>/dev/null || true' EXIT
wait "$machine" || fail "the machine did not end in $limit s or failed; see $console: $(tail -n 3 "$console")"
trap - EXIT
tr -d '\r' <"$console" >"$work/results.log"
grep '^=== ' "$work/results.log" || true
grep -qx '=== all' "$work/results.log" || fail "the machine ended early; see $console"
count=$(grep -c '^=== /t/.* status 0 passed [1-9][0-9]* failed 0$' "$work/results.log" || true)
wanted=$(set -- $core $preload && echo $#)
[ "$count" = "$wanted" ] || fail "$count of $wanted tests passed; see $work/results.log"
echo "arm64: all $count passed"
