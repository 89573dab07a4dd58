#!/usr/bin/env bash
# A file over HTTPS, sealed by uktls, checked, and timed beside the same server with plain SSL_write().
# Environment: PREFIX, the installed library; DEMO_MIB, the size of the file (1024).
# `make demo` builds the library first, then runs this.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${PREFIX:?the installed library; 'make demo' sets it}"
export PKG_CONFIG_PATH=${PKG_CONFIG_PATH:-$PREFIX/lib/pkgconfig}
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-$PREFIX/lib}
export LC_ALL=C
bytes=$((${DEMO_MIB:-1024} * 1024 * 1024))
rounds=3

work=$(mktemp -d)
pids=()
cleanup() {
    [ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
fail() {
    echo "demo: FAILED: $1" >&2
    exit 1
}

echo "demo: building examples-c/https-server.c"
read -ra flags < <(pkg-config --cflags --libs uktls openssl)
${CC:-cc} -std=c99 -O2 -o "$work/https-server" examples-c/https-server.c "${flags[@]}"

echo "demo: making a certificate and a file of $((bytes >> 20)) MiB of random bytes"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/cert.pem" 2>"$work/log" ||
    { cat "$work/log" >&2; fail 'no certificate'; }
mkdir "$work/www"
head -c "$bytes" /dev/zero | openssl enc -aes-128-ctr -K "$(openssl rand -hex 16)" -iv "$(openssl rand -hex 16)" \
    -out "$work/www/file"
wanted=$(sha256sum <"$work/www/file")

# start NAME OPTIONS...: the server's lines come by a pipe, whose read end stays open as lines_NAME.
declare -A pid port lines
start() {
    local name=$1 fd line
    shift
    mkfifo "$work/$name"
    exec {fd}<>"$work/$name"
    "$work/https-server" --cert "$work/cert.pem" --key "$work/key.pem" --dir "$work/www" "$@" >"$work/$name" &
    pid[$name]=$!
    pids+=("$!")
    lines[$name]=$fd
    read -r -t 10 line <&"$fd" || fail "the server ($name) does not start"
    port[$name]=${line##* }
}
stats=
counter() { [[ $stats =~ \"$1\":([0-9]+) ]] && echo "${BASH_REMATCH[1]}"; }
read_stats() { kill -USR1 "${pid[$1]}" && read -r -t 10 stats <&"${lines[$1]}"; }
cpu_ticks() {
    local fields
    read -ra fields <"/proc/$1/stat"
    echo $((fields[13] + fields[14]))
}
# download SERVER VERSION OPTIONS...
download() {
    local server=$1 version=$2
    shift 2
    curl --fail --noproxy '*' --cacert "$work/cert.pem" "--tlsv$version" --tls-max "$version" "$@" \
        "https://localhost:${port[$server]}/file"
}
progress=-sS
[ ! -t 2 ] || progress=-#

start uktls --put
start SSL_write --ssl-write

for version in 1.3 1.2; do
    echo "demo: downloading over TLS $version, sealed by uktls"
    read_stats uktls
    before=$(counter tx_bytes)
    got=$(download uktls "$version" "$progress" | sha256sum) || fail "download over TLS $version"
    [ "$got" = "$wanted" ] || fail "TLS $version: wrong bytes: SHA-256 ${got%% *}, not ${wanted%% *}"
    read_stats uktls
    sent=$(($(counter tx_bytes) - before))
    [ "$sent" -ge "$bytes" ] && [ "$(counter tx_records)" -gt 0 ] ||
        fail "TLS $version: only $sent of $bytes bytes went through uktls: $stats"
    echo "demo: SHA-256 is right: ${got%% *}"
done
for version in 1.3 1.2; do
    echo "demo: uploading over TLS $version, opened by uktls"
    read_stats uktls
    before=$(counter rx_bytes)
    curl --fail --noproxy '*' --cacert "$work/cert.pem" "--tlsv$version" --tls-max "$version" "$progress" \
        -o /dev/null -T "$work/www/file" "https://localhost:${port[uktls]}/upload" || fail "upload over TLS $version"
    got=$(sha256sum <"$work/www/upload")
    [ "$got" = "$wanted" ] || fail "TLS $version: wrong bytes: SHA-256 ${got%% *}, not ${wanted%% *}"
    rm "$work/www/upload"
    read_stats uktls
    came=$(($(counter rx_bytes) - before))
    [ "$came" -ge "$bytes" ] && [ "$(counter tls_decrypt_error)" -eq 0 ] ||
        fail "TLS $version: only $came of $bytes bytes came through uktls: $stats"
    echo "demo: SHA-256 is right: ${got%% *}"
done
echo "demo: the counters of uktls:"
for name in tls_rx_sw rx_records rx_bytes tls_tx_sw tx_records tx_bytes tx_wire_bytes transmit_calls transmit_records_max \
    queue_bytes_max queue_records_max sealed_inline sealed_threads records_from_caller \
    records_from_worker deferred_scheduled deferred_cancelled; do
    printf '        %-22s %s\n' "$name" "$(counter "$name")"
done

echo "demo: timing $rounds downloads of each kind, in turn"
# Best time of the rounds in seconds, and server CPU ticks of all of them.
declare -A best ticks
for ((round = 1; round <= rounds; round++)); do
    for version in 1.3 1.2; do
        for server in uktls SSL_write; do
            key=$server-$version
            before=$(cpu_ticks "${pid[$server]}")
            took=$(download "$server" "$version" -sS -o /dev/null -w '%{time_total}') || fail "download from $server"
            ticks[$key]=$((${ticks[$key]:-0} + $(cpu_ticks "${pid[$server]}") - before))
            best[$key]=$(printf '%s\n' "$took" ${best[$key]:+"${best[$key]}"} | sort -g | head -n 1)
        done
    done
done
read_stats SSL_write
[ "$(counter tx_records)" -eq 0 ] || fail "the server that was to compare with used uktls: $stats"

echo
printf '%-8s %-10s %10s %8s %22s\n' '' server GB/s ratio 'server CPU s per GB'
for version in 1.3 1.2; do
    for server in SSL_write uktls; do
        key=$server-$version
        awk -v version="TLS $version" -v server="$server" -v bytes="$bytes" -v best="${best[$key]}" \
            -v base="${best[SSL_write-$version]}" -v ticks="${ticks[$key]}" -v hz="$(getconf CLK_TCK)" -v rounds="$rounds" \
            'BEGIN { printf "%-8s %-10s %10.2f %8.2f %22.2f\n", version, server, bytes / best / 1e9, base / best,
                     ticks / hz / rounds / (bytes / 1e9) }'
    done
done
echo
echo 'Best of the rounds; the receiver, curl, decrypts with OpenSSL in the same machine, and limits all of them.'

for server in uktls SSL_write; do
    kill -TERM "${pid[$server]}"
    wait "${pid[$server]}" || fail "the server ($server) ended with status $?"
done
pids=()
echo 'demo: passed'
