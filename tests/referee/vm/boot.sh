#!/usr/bin/env bash
# Boots Debian's kernel with kTLS, runs the probe in it, and writes what it printed.
#
# Environment: WORK, a directory for what is fetched and made; KERNEL_PACKAGE, the package of another
# kernel than the newest 6.12 (or else newest) one for virtual machines; STAGE, where the staged library is: the
# probe runs over it in the same machine too; REFEREE_TIMEOUT, seconds.
# Usage: tests/referee/vm/boot.sh
# With WALKS='FIRST COUNT' only these walks, into WORK/walk-kernel.out and WORK/walk-always.out. Else it
# writes WORK/kernel.out, WORK/always.out, WORK/auto.out, WORK/auto.stats, WORK/auto.tls_stat.
set -euo pipefail
: "${WORK:?a directory}" "${STAGE:?the installed library}"
limit=${REFEREE_TIMEOUT:-500}
root=$WORK/root
console=$WORK/console.log
results=$WORK/results.log

fail() { echo "referee: $*" >&2; exit 1; }

# --- the kernel, once -------------------------------------------------------------------------

package=${KERNEL_PACKAGE:-}
if [ -z "$package" ]; then
    names=$(apt-cache pkgnames linux-image-6 | grep -E '^linux-image-6\.[0-9.]+(\+deb12)?(-[0-9]+)?-cloud-amd64$' | sort -V)
    package=$(grep -F linux-image-6.12 <<<"$names" | tail -n 1 || true)
    [ -n "$package" ] || package=$(tail -n 1 <<<"$names")
    [ -n "$package" ] || fail 'apt knows no kernel for virtual machines; set KERNEL_PACKAGE'
fi
kernel=$WORK/$package
if [ ! -f "$kernel/modules.txt" ]; then
    rm -rf "$kernel" "$kernel.new"
    mkdir -p "$kernel.new/deb"
    echo "referee: fetching $package"
    # apt drops its rights where it cannot use them here, and says so.
    (cd "$kernel.new/deb" && apt-get download -q "$package" 2>&1 | grep -v unsandboxed) || fail "no $package"
    dpkg-deb -x "$kernel.new"/deb/*.deb "$kernel.new"
    rm -rf "$kernel.new/deb"
    version=$(basename "$kernel.new"/lib/modules/*)
    # /lib may be a link in the root that depmod works in: so it is told where the modules are.
    depmod -b "$kernel.new" "$version"
    # SIMD implementations are left out: what the software path does is the same, and without an
    # asynchronous cipher in between it is the same in every run.
    for module in ghash-generic gcm ccm chacha20poly1305 chacha_generic poly1305_generic \
        sm4_generic aria_generic tls; do
        modprobe -d "$kernel.new" -S "$version" --show-depends "$module" 2>/dev/null || true
    done | awk '/^insmod/ && !seen[$2]++ { print $2 }' >"$kernel.new/list"
    mkdir "$kernel.new/ko"
    while read -r module; do
        name=$(basename "${module%.xz}")
        case $module in
        *.xz) xz -dc "$module" >"$kernel.new/ko/$name" ;;
        *) cp "$module" "$kernel.new/ko/$name" ;;
        esac
        echo "/ko/$name"
    done <"$kernel.new/list" >"$kernel.new/modules.tmp"
    grep -q '/tls.ko$' "$kernel.new/modules.tmp" || fail "$package has no kTLS"
    mv "$kernel.new/modules.tmp" "$kernel.new/modules.txt"
    mv "$kernel.new" "$kernel"
fi

# --- what runs in it --------------------------------------------------------------------------

rm -rf "$root"
mkdir -p "$root/ko"
cp "$WORK/init" "$root/init"
cp "$WORK/probe-static" "$root/probe-static"
cp "$kernel"/ko/*.ko "$root/ko/"
cp "$kernel/modules.txt" "$root/modules"
preload=$STAGE/lib/libuktls_preload.so
[ -f "$preload" ] || fail "no $preload"
cp "$WORK/probe" "$root/probe"
# What both need of the system, at the same paths.
ldd "$WORK/probe" "$preload" | grep -oE '/[^ :]+\.so[^ :]*' | sort -u | while read -r library; do
    case $library in "$preload") continue ;; esac
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
cp "$preload" "$root/preload.so"
if [ -n "${WALKS:-}" ]; then
    echo "walk-kernel.out -- /probe-static --walk $WALKS"
    echo "walk-always.out LD_PRELOAD=/preload.so UKTLS_MODE=always -- /probe --walk $WALKS"
else
    echo 'kernel.out -- /probe-static'
    echo 'always.out LD_PRELOAD=/preload.so UKTLS_MODE=always -- /probe'
    echo 'before.tls_stat -- /probe-static --file /proc/net/tls_stat'
    echo 'auto.out LD_PRELOAD=/preload.so UKTLS_MODE=auto UKTLS_STATS_FILE=/tmp/stats -- /probe'
    echo 'auto.stats -- /probe-static --file /tmp/stats'
    echo 'auto.tls_stat -- /probe-static --file /proc/net/tls_stat'
fi >"$root/run"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$WORK/initramfs.gz"

# --- the machine ------------------------------------------------------------------------------

: >"$console"
: >"$results"
echo "referee: booting $package"
# The software CPU, whatever the host has: the same everywhere. One CPU, so that nothing depends on
# which of two is faster.
timeout --kill-after=10 "$limit" qemu-system-x86_64 -accel tcg -cpu max -smp 1 -m 768 -nodefaults -no-reboot \
    -display none -monitor none -serial "file:$console" -serial "file:$results" \
    -kernel "$kernel"/boot/vmlinuz-* -initrd "$WORK/initramfs.gz" \
    -append 'console=ttyS0 loglevel=4 panic=-1 rdinit=/init' </dev/null &
machine=$!
# The machine is ended with us.
trap 'kill "$machine" 2>/dev/null || true' EXIT
wait "$machine" || fail "the machine did not end in $limit s or failed; see $console, $results: $(tail -n 3 "$console")"
trap - EXIT
grep -qx '=== all' "$results" || fail "the machine ended early; see $console, $results: $(tail -n 3 "$console")"

awk -v dir="$WORK" '
    /^=== end / { if (file != "") { print $3 > (dir "/" file ".status"); close(dir "/" file) } file = ""; next }
    /^=== all/ { next }
    /^=== / { file = $2; printf "" > (dir "/" file); next }
    file != "" { print > (dir "/" file) }
' "$results"
