#!/usr/bin/env bash
# The example server, sealed by uktls, against other TLS libraries: curl and OpenSSL, GnuTLS, rustls.
# Bodies are compared by SHA-256, and the server's counters have to show that uktls sent them.
# Environment: PREFIX, the installed library; PKG_CONFIG_PATH; LD_LIBRARY_PATH; CC.
# Usage: tests/interop/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

: "${PREFIX:?the installed library: make stage, then PREFIX=build/stage}"
export PKG_CONFIG_PATH=${PKG_CONFIG_PATH:-$PREFIX/lib/pkgconfig}
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-$PREFIX/lib}
export LC_ALL=C
cc=${CC:-cc}
limit=20 # seconds for one client

work=$(mktemp -d)
server_pid=
reader_pid=
cleanup() {
    [ -z "$reader_pid" ] || kill -KILL "$reader_pid" 2>/dev/null || true
    [ -z "$server_pid" ] || kill -KILL "$server_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

passed=0
failed=0
ok() { passed=$((passed + 1)); echo "ok $1"; }
not_ok() { failed=$((failed + 1)); echo "FAIL $1: $2"; }
# check NAME COMMAND...
check() {
    local name=$1
    shift
    if "$@"; then ok "$name"; else not_ok "$name" "$*"; fi
}
now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }

# --- build ------------------------------------------------------------------------------------

read -ra flags < <(pkg-config --cflags --libs uktls openssl)
for source in examples-c/https-server.c examples-c/echo.c tests/interop/bio.c; do
    "$cc" -std=c99 -O2 -Wall -Wextra -pedantic -Werror -o "$work/$(basename "$source" .c)" "$source" "${flags[@]}"
done
cargo build -q -p uktls-interop-rustls-client
rustls_client=${CARGO_TARGET_DIR:-target}/debug/uktls-interop-rustls-client

# --- files and certificates -------------------------------------------------------------------

# shellcheck source=tests/certificates.sh
. tests/certificates.sh
new_certificates

mkdir "$work/www" "$work/www/sub dir"
new_file() { head -c "$2" /dev/urandom >"$work/www/$1"; }
new_file tiny 300
new_file small 300007
new_file middle 4194304
new_file large 67108861
: >"$work/www/empty"
echo 'the index' >"$work/www/index.html"
echo 'found' >"$work/www/sub dir/a+b%.txt"
echo 'outside' >"$work/secret"
ln -s ../secret "$work/www/link"
declare -A sum size
for file in tiny small middle large empty; do
    sum[$file]=$(sha256sum <"$work/www/$file")
    size[$file]=$(stat -c %s "$work/www/$file")
done

# --- the server -------------------------------------------------------------------------------

ciphers_12=ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305
ciphers_12+=:ECDHE-ECDSA-AES128-CCM:ECDHE-ECDSA-AES128-SHA256
ciphers_13=TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_CCM_SHA256

# The server's lines come by a pipe, so waiting for one needs no sleep. Both ends are held open here,
# or opening it would wait for the server.
mkfifo "$work/lines"
exec {lines}<>"$work/lines"

start_server() {
    "$work/https-server" --cert "$work/localhost.pem" --key "$work/localhost.key" --dir "$work/www" \
        --ciphers "$ciphers_12" --ciphers "$ciphers_13" --stats --put "$@" >"$work/lines" &
    server_pid=$!
    local line
    read -r -t 10 line <&"$lines" || { echo 'interop: the server does not start' >&2; exit 1; }
    port=${line##* }
    url=https://localhost:$port
}
stats=
read_stats() {
    kill -USR1 "$server_pid" && read -r -t 10 stats <&"$lines"
}
# Prints one counter of the last read_stats.
counter() {
    [[ $stats =~ \"$1\":([0-9]+) ]] && echo "${BASH_REMATCH[1]}"
}
stop_server() {
    kill -TERM "$server_pid"
    read -r -t 10 stats <&"$lines" || { not_ok "$1" 'no counters at the end'; stats=; }
    if wait "$server_pid"; then ok "$1"; else not_ok "$1" "exit status $?"; fi
    server_pid=
}

# fetch NAME FILE uktls|openssl COMMAND...: COMMAND writes the file's body to stdout, and it was sealed by that one.
fetch() {
    local name=$1 file=$2 by=$3 got before sent
    shift 3
    read_stats
    before=$(counter tx_bytes)
    if ! got=$(timeout "$limit" "$@" 2>"$work/client.log" | sha256sum); then
        not_ok "$name" "client failed: $(tail -n 3 "$work/client.log")"
        return
    fi
    if [ "$got" != "${sum[$file]}" ]; then
        not_ok "$name" "wrong bytes: $(tail -n 3 "$work/client.log")"
        return
    fi
    read_stats
    sent=$(($(counter tx_bytes) - before))
    case $by in
    uktls) [ "$sent" -ge "${size[$file]}" ] || { not_ok "$name" "only $sent bytes went through uktls"; return; } ;;
    openssl) [ "$sent" -eq 0 ] || { not_ok "$name" "$sent bytes went through uktls"; return; } ;;
    esac
    ok "$name"
}

# --- clients ----------------------------------------------------------------------------------

get() { curl -sS --fail --noproxy '*' --cacert "$work/ca.pem" "$@"; }
body() { sed '1,/^\r$/d'; }
request() { printf 'GET /%s HTTP/1.0\r\n\r\n' "$1"; }
s_client() {
    local file=$1
    shift
    request "$file" | openssl s_client -quiet -verify_return_error -CAfile "$work/ca.pem" -connect "localhost:$port" "$@" | body
}
# gnutls-cli ends when its input does, so the input stays open; it goes when the server closes.
gnutls() {
    local file=$1 priority=$2
    request "$file" >&"$gnutls_input"
    gnutls-cli --x509cafile "$work/ca.pem" --logfile=/dev/null --priority "$priority" -p "$port" localhost \
        <&"$gnutls_input" | body
}
mkfifo "$work/gnutls"
exec {gnutls_input}<>"$work/gnutls"

get_12() { get --tlsv1.2 --tls-max 1.2 --ciphers "$1" "$url/middle"; }
get_13() { get --tlsv1.3 --tls13-ciphers "$1" "$url/middle"; }
# timeout(1) runs programs only, so functions are run by this one.
run=(bash -o pipefail -c '"$@"' -)
export -f get get_12 get_13 body request s_client gnutls
export work port url gnutls_input

start_server

"$work/bio" "$work/localhost.pem" "$work/localhost.key" >"$work/bio.log" || true
cat "$work/bio.log"
passed=$((passed + $(grep -c '^ok ' "$work/bio.log" || true)))
failed=$((failed + $(grep -c '^FAIL ' "$work/bio.log" || true)))
check 'bio: all scenarios were run' test "$(grep -c '^ok \|^FAIL ' "$work/bio.log")" -eq 18

for name in AES128-GCM-SHA256 AES256-GCM-SHA384 CHACHA20-POLY1305 AES128-CCM; do
    fetch "curl, TLS 1.2, $name" middle uktls "${run[@]}" get_12 "ECDHE-ECDSA-$name"
done
for name in AES_128_GCM_SHA256 AES_256_GCM_SHA384 CHACHA20_POLY1305_SHA256; do
    fetch "curl, TLS 1.3, $name" middle uktls "${run[@]}" get_13 "TLS_$name"
done
# What OpenSSL does not hand over it seals by itself: CBC, and CCM in TLS 1.3 before OpenSSL 3.2.
fetch 'curl, TLS 1.2, AES-CBC' middle openssl "${run[@]}" get_12 ECDHE-ECDSA-AES128-SHA256
fetch 'curl, TLS 1.3, AES_128_CCM_SHA256' middle either "${run[@]}" get_13 TLS_AES_128_CCM_SHA256

for version in 1_2 1_3; do
    fetch "openssl s_client, TLS $version" middle uktls "${run[@]}" s_client middle "-tls$version"
done
fetch 'openssl s_client, TLS 1.2, AES128-CCM' middle uktls \
    "${run[@]}" s_client middle -tls1_2 -cipher ECDHE-ECDSA-AES128-CCM
fetch 'openssl s_client, TLS 1.3, AES_128_CCM' middle either \
    "${run[@]}" s_client middle -tls1_3 -ciphersuites TLS_AES_128_CCM_SHA256

for version in 1.2 1.3; do
    for cipher in AES-128-GCM AES-256-GCM CHACHA20-POLY1305; do
        fetch "gnutls-cli, TLS $version, $cipher" small uktls \
            "${run[@]}" gnutls small "NORMAL:-VERS-ALL:+VERS-TLS$version:-CIPHER-ALL:+$cipher"
    done
done
fetch 'gnutls-cli, TLS 1.2, AES-128-CCM' small uktls \
    "${run[@]}" gnutls small 'NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-CCM'

for suite in AES_128_GCM_SHA256 AES_256_GCM_SHA384 CHACHA20_POLY1305_SHA256; do
    fetch "rustls, TLS 1.2, $suite" middle uktls \
        "$rustls_client" "127.0.0.1:$port" /middle "$work/ca.pem" 1.2 "TLS_ECDHE_ECDSA_WITH_$suite"
    fetch "rustls, TLS 1.3, $suite" middle uktls \
        "$rustls_client" "127.0.0.1:$port" /middle "$work/ca.pem" 1.3 "TLS13_$suite"
done

# --- HTTP -------------------------------------------------------------------------------------

# part NAME FILE RANGE FIRST-BYTE LENGTH
part() {
    local wanted got
    wanted=$(dd if="$work/www/$2" iflag=skip_bytes,count_bytes skip="$4" count="$5" status=none | sha256sum)
    got=$(get -r "$3" -w '%{stderr}%{http_code}' "$url/$2" 2>"$work/code" | sha256sum)
    check "$1" test "$got $(cat "$work/code")" = "$wanted 206"
}
# Prints the status of a request that need not succeed.
status() { curl -sS --noproxy '*' --cacert "$work/ca.pem" -o /dev/null -w '%{http_code}' "$@"; }

part 'range: first byte' middle 0-0 0 1
part 'range: middle, across records' middle 16000-3000000 16000 2984001
part 'range: open end' middle 4194300- 4194300 4
part 'range: the last bytes' middle -100001 $((4194304 - 100001)) 100001
part 'range: end behind the file' small 300000-999999999 300000 7
check 'range: begins behind the file' test "$(status -r 4194304- "$url/middle")" = 416
check 'range: several are answered by the whole' test "$(get -r 0-1,5-6 "$url/middle" | sha256sum)" = "${sum[middle]}"
check 'an empty file' test "$(get "$url/empty" | sha256sum)" = "${sum[empty]}"
check 'the index' test "$(get "$url/")" = 'the index'
check 'an escaped path' test "$(get "$url/sub%20dir/a+b%25.txt?query")" = found
check '404' test "$(status "$url/nothing")" = 404
check '404 for a directory' test "$(status "$url/sub%20dir")" = 404
check '405' test "$(status -X DELETE "$url/tiny")" = 405
check '413 for a body' test "$(status -d x -X GET "$url/tiny")" = 413
check '431' test "$(status -H "X: $(head -c 9000 /dev/zero | tr '\0' x)" "$url/tiny")" = 431
for path in ../secret %2e%2e/secret sub%20dir/../../secret 'sub%20dir/%2e%2e%2f..%2fsecret' link link/ .; do
    check "404 for $path" test "$(status --path-as-is "$url/$path")" = 404
done
check '400 for a NUL' test "$(status "$url/a%00b")" = 400

head_of_middle=$(get -I "$url/middle")
check 'HEAD: length' grep -q $'^Content-Length: 4194304\r$' <<<"$head_of_middle"
check 'HEAD, then GET, one connection' test "$(get -I "$url/small" -o /dev/null --next -sS --fail --noproxy '*' \
    --cacert "$work/ca.pem" "$url/small" -w '%{stderr}%{num_connects}' 2>"$work/connects" | sha256sum) $(cat "$work/connects")" \
    = "${sum[small]} 0"

read_stats
before=$(counter accepted)
files=(tiny middle empty small tiny small middle empty tiny middle)
get $(printf "$url/%s " "${files[@]}") >"$work/got"
read_stats
check 'keep-alive: ten GETs, all bytes' cmp "$work/got" <(cd "$work/www" && cat "${files[@]}")
check 'keep-alive: ten GETs, one connection' test $(($(counter accepted) - before)) -eq 1
# The answers are Content-Length: 300 each; without waiting for one the next is asked for.
pipelined=$({ for _ in 1 2 3; do printf 'GET /tiny HTTP/1.1\r\nHost: x\r\n\r\n'; done; request tiny; } |
    openssl s_client -quiet -CAfile "$work/ca.pem" -connect "localhost:$port" 2>/dev/null | grep -ao 'HTTP/1.1 200 OK' | wc -l)
check 'keep-alive: four pipelined requests' test "$pipelined" -eq 4

# --- readers that stop, and readers that vanish -------------------------------------------------

mkfifo "$work/body"
# Starts to download `large` and takes the first 1 MB of it, then nothing. The rest is at &$reader.
start_reader() {
    get "$url/large" >"$work/body" 2>"$work/reader.log" &
    reader_pid=$!
    exec {reader}<"$work/body"
    head -c 1000000 <&"$reader" >"$work/begin"
}
cpu_ticks() {
    local fields
    read -ra fields <"/proc/$server_pid/stat"
    echo $((fields[13] + fields[14]))
}

start_reader
began=$(now_ms)
got=$(timeout "$limit" curl -sS --noproxy '*' --cacert "$work/ca.pem" "$url/middle" | sha256sum)
took=$(($(now_ms) - began))
check 'stopped reader: another one gets its bytes' test "$got" = "${sum[middle]}"
check "stopped reader: another one is served fast ($took ms)" test "$took" -lt 1000
ticks=$(cpu_ticks)
sleep 2
ticks=$(($(cpu_ticks) - ticks))
check "stopped reader: the server rests meanwhile ($ticks ticks)" test "$ticks" -lt 20
read_stats
check 'stopped reader: is still connected' test "$(counter connections)" -eq 1
got=$(cat "$work/begin" - <&"$reader" | sha256sum)
exec {reader}<&-
check 'stopped reader: gets the rest' test "$got" = "${sum[large]}"
check 'stopped reader: ends well' wait "$reader_pid"
reader_pid=

# gone N: within 5 s the server has N connections, in uktls too.
gone() {
    local until=$(($(now_ms) + 5000))
    while [ "$(now_ms)" -lt "$until" ]; do
        read_stats
        [ "$(counter connections) $(counter tls_curr_tx_sw)" != "$1 $1" ] || return 0
    done
    return 1
}
for round in 1 2 3; do
    start_reader
    kill -KILL "$reader_pid"
    wait "$reader_pid" 2>/dev/null || true
    exec {reader}<&-
    reader_pid=
    check "vanished reader $round: is cleaned up" gone 0
    fetch "vanished reader $round: the next one is served" middle uktls "${run[@]}" get "$url/middle"
done

# --- many at once -----------------------------------------------------------------------------

# Slowed down, so that the hundred are really there at the same time.
read_stats
before=$(counter tx_bytes)
check 'hundred at once: all end well' timeout 40 curl -sS --fail --noproxy '*' --cacert "$work/ca.pem" --parallel \
    --parallel-immediate --parallel-max 100 --limit-rate 4M --no-progress-meter "$url/middle?[1-100]" -o "$work/many-#1"
wrong=0
for i in $(seq 100); do
    cmp -s "$work/www/middle" "$work/many-$i" || wrong=$((wrong + 1))
done
check 'hundred at once: all bytes' test "$wrong" -eq 0
read_stats
check "hundred at once: $(counter connections_max) connections" test "$(counter connections_max)" -ge 100
check 'hundred at once: through uktls' test $(($(counter tx_bytes) - before)) -ge $((100 * size[middle]))
rm -f "$work"/many-*

# --- uploads ----------------------------------------------------------------------------------

# upload NAME FILE uktls|openssl COMMAND...: COMMAND sends the file as /upload, and it was opened by that one.
upload() {
    local name=$1 file=$2 by=$3 before records came
    shift 3
    read_stats
    before=$(counter rx_bytes) records=$(counter rx_records)
    rm -f "$work/www/upload"
    if ! timeout "$limit" "$@" >"$work/client.log" 2>&1; then
        not_ok "$name" "client failed: $(tail -n 3 "$work/client.log")"
        return
    fi
    read_stats
    came=$(($(counter rx_bytes) - before)) records=$(($(counter rx_records) - records))
    case $by in
    uktls)
        [ "$came" -ge "${size[$file]}" ] && [ "$records" -ge $((${size[$file]} / 16384)) ] ||
            { not_ok "$name" "only $came bytes in $records records came through uktls"; return; }
        ;;
    openssl) [ "$came" -eq 0 ] || { not_ok "$name" "$came bytes came through uktls"; return; } ;;
    esac
    check "$name" cmp "$work/www/$file" "$work/www/upload"
}
put() { get -T "$work/www/$1" "$url/upload" "${@:2}"; }
put_file() { printf 'PUT /upload HTTP/1.0\r\nContent-Length: %d\r\n\r\n' "$(stat -c %s "$work/www/$1")" && cat "$work/www/$1"; }
s_client_put() {
    put_file "$1" | openssl s_client -quiet -verify_return_error -CAfile "$work/ca.pem" -connect "localhost:$port" "${@:2}" |
        grep -a ' 201 '
}
# A pipe would take no more than it holds before gnutls-cli reads, so the file is written beside it.
gnutls_put() {
    put_file "$1" >&"$gnutls_input" &
    gnutls-cli --x509cafile "$work/ca.pem" --logfile=/dev/null --priority "$2" -p "$port" localhost \
        <&"$gnutls_input" | grep -a ' 201 '
}
export -f put put_file s_client_put gnutls_put
seq 400000 >"$work/www/digits"
size[digits]=$(stat -c %s "$work/www/digits")
for name in AES128-GCM-SHA256 AES256-GCM-SHA384 CHACHA20-POLY1305 AES128-CCM; do
    upload "upload, TLS 1.2, $name" middle uktls "${run[@]}" put middle --tlsv1.2 --tls-max 1.2 --ciphers "ECDHE-ECDSA-$name"
done
for name in AES_128_GCM_SHA256 AES_256_GCM_SHA384 CHACHA20_POLY1305_SHA256 AES_128_CCM_SHA256; do
    upload "upload, TLS 1.3, $name" middle uktls "${run[@]}" put middle --tlsv1.3 --tls13-ciphers "TLS_$name"
done
upload 'upload, TLS 1.2, AES-CBC' middle openssl "${run[@]}" put middle --tlsv1.2 --tls-max 1.2 --ciphers ECDHE-ECDSA-AES128-SHA256
for file in empty tiny large; do
    upload "upload: $file" "$file" uktls "${run[@]}" put "$file"
done
for version in 1.2 1.3; do
    # Then the file's first bytes come together with the head, NUL bytes among them.
    upload "upload without \"Expect\", TLS $version" middle uktls "${run[@]}" put middle --tls-max "$version" -H Expect:
    upload "upload by openssl s_client, TLS $version" small uktls "${run[@]}" s_client_put small "-tls${version/./_}"
    upload "upload by gnutls-cli, TLS $version" digits uktls "${run[@]}" gnutls_put digits "NORMAL:-VERS-ALL:+VERS-TLS$version"
    check "upload: refused, and read to its end, TLS $version" \
        test "$(status --tls-max "$version" -T "$work/www/large" -H Expect: "$url/no/upload")" = 403
done
ticks=$(cpu_ticks)
upload 'upload: slowly' small uktls "${run[@]}" put small --limit-rate 150k
ticks=$(($(cpu_ticks) - ticks))
check "upload: slowly: the server rests meanwhile ($ticks ticks)" test "$ticks" -lt 20
check 'upload: a name outside' test "$(status --path-as-is -T "$work/www/tiny" "$url/../tiny")" = 403
# The peer changes its keys in the middle (KeyUpdate), by the command K of s_client.
printf 'PUT /upload HTTP/1.1\r\nContent-Length: 10\r\nConnection: close\r\n\r\n' >"$work/put"
{ cat "$work/put"; sleep 0.3; echo k; sleep 0.3; printf '0123456789'; sleep 1; } |
    timeout "$limit" openssl s_client -tls1_3 -CAfile "$work/ca.pem" -connect "localhost:$port" >"$work/client.log" 2>&1 || true
check 'upload: the client changes its keys' test "$(cat "$work/www/upload")" = 0123456789
# Vanishes in the middle: nothing of it stays.
curl -sS --noproxy '*' --cacert "$work/ca.pem" --limit-rate 2M -T "$work/www/large" "$url/half" 2>/dev/null &
reader_pid=$!
sleep 0.5
kill -KILL "$reader_pid"
wait "$reader_pid" 2>/dev/null || true
reader_pid=
check 'upload: a sender that vanishes is cleaned up' gone 0
check 'upload: and its file' test -z "$(find "$work/www" -name '.upload*' -o -name half)"
check 'upload: thirty at once' timeout 40 curl -sS --fail --noproxy '*' --cacert "$work/ca.pem" --parallel \
    --parallel-immediate --parallel-max 30 --no-progress-meter \
    $(for i in $(seq 30); do printf -- '-T %s/www/middle %s/many%s ' "$work" "$url" "$i"; done)
wrong=0
for i in $(seq 30); do
    cmp -s "$work/www/middle" "$work/www/many$i" || wrong=$((wrong + 1))
done
check 'upload: thirty at once, all bytes' test "$wrong" -eq 0
read_stats
check 'uploads: every record was authentic' test "$(counter tls_decrypt_error)" -eq 0

check 'no connection is left behind' gone 0
stop_server 'the server ends by SIGTERM'

# Two ends of uktls. The server says when it listens, and ends with the client.
for port in $(seq 20443 20470); do
    "$work/echo" server "$port" >"$work/lines" 2>/dev/null &
    server_pid=$!
    read -r -t 10 line <&"$lines" && break
    wait "$server_pid" || true
done
check 'echo: the client gets back what it sent' timeout "$limit" "$work/echo" client "$port"
check 'echo: the server ends well' wait "$server_pid"
server_pid=

UKTLS_ENGINE=threads start_server
for version in 1.2 1.3; do
    fetch "sealed by threads, TLS $version" large uktls "${run[@]}" get "--tlsv$version" --tls-max "$version" "$url/large"
done
read_stats
check "sealed by threads: $(counter sealed_threads) records" test "$(counter sealed_threads)" -ge 8000
stop_server 'the server with threads ends by SIGTERM'

start_server --ssl-write
fetch '--ssl-write does without uktls' middle openssl "${run[@]}" get "$url/middle"
stop_server '--ssl-write ends by SIGTERM'

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
