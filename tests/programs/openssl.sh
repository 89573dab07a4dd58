#!/usr/bin/env bash
# OpenSSL's own server and client: files by SSL_write and by SSL_sendfile, a stream from s_client to s_server.
# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

mkdir "$work/www"
# s_client takes some letters at the beginning of what it reads for commands: these are digits.
head -c 15000001 /dev/urandom | od -An -v -tx1 | tr -d ' \nabcdef' >"$work/www/file"
size=$(stat -c %s "$work/www/file")
export OPENSSL_CONF=$work/openssl.cnf
# s_server takes the end of its input for the end of the connection.
mkfifo "$work/open"
exec {open}<>"$work/open"

# serve ARGUMENTS...: of s_server, in the directory of the file, for one connection behind the one that looks whether it
# listens: by itself it would end by a signal, which leaves no time for counters
serve() {
    free_port
    forget
    start sh -c 'cd "$1" && out=$2 && shift 2 && exec openssl s_server "$@" <../open >"$out"' - "$work/www" "$work/received" \
        -accept "127.0.0.1:$port" -naccept 2 -cert "$work/localhost.pem" -key "$work/localhost.key" "$@"
    wait_for_port
}

for version in tls1_2 tls1_3; do
    for how in "-sendfile -WWW" -WWW; do
        read -ra arguments <<<"$how"
        serve "-$version" "${arguments[@]}"
        same "s_server $how, $version" "$work/www/file" "${get[@]}" "https://localhost:$port/file" --http1.0
        check "s_server $how, $version: ends" stop CONT
        went_through "s_server $how, $version: sealed by uktls" tx_bytes "$size"
    done
    serve "-$version" -quiet
    "${with_uktls[@]}" timeout "$limit" openssl s_client -quiet -no_ign_eof -CAfile "$work/ca.pem" \
        -verify_return_error "-$version" -connect "127.0.0.1:$port" <"$work/www/file" >/dev/null 2>"$work/client.log" ||
        not_ok "s_client, $version" "$(tail -n 3 "$work/client.log")"
    check "s_server receives, $version: ends" stop CONT
    same "s_client sends, $version" "$work/www/file" cat "$work/received"
    went_through "s_client sends, $version: sealed by uktls" tx_bytes "$size"
    # OpenSSL 3.0 receives by kernel TLS in TLS 1.2 only.
    [ "$version" != tls1_2 ] || went_through "s_server receives, $version: opened by uktls" rx_bytes "$size"
done
exec {open}>&-
summary
