#!/usr/bin/env bash
# Redis: values of many sizes by redis-cli, and many clients at once by redis-benchmark; both ends under the library.
# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

export OPENSSL_CONF=$work/openssl.cnf
new_file "$work/value" 10000007
tls=(--tls --cacert "$work/ca.pem")

for version in TLSv1.2 TLSv1.3; do
    free_port
    forget
    start redis-server --port 0 --tls-port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$work" \
        --tls-cert-file "$work/localhost.pem" --tls-key-file "$work/localhost.key" --tls-ca-cert-file "$work/ca.pem" \
        --tls-auth-clients no --tls-protocols "$version"
    wait_for_port
    cli=("${with_uktls[@]}" redis-cli "${tls[@]}" -h localhost -p "$port")
    check "redis, $version: set" [ "$("${cli[@]}" -x set large <"$work/value")" = OK ]
    # What redis-cli adds is a line feed.
    same "redis, $version: get" "$work/value" sh -c '"$@" | head -c 10000007' - "${cli[@]}" get large
    check "redis, $version: 50 clients, pipelined" timeout "$limit" "${with_uktls[@]}" redis-benchmark "${tls[@]}" \
        -h localhost -p "$port" -q -n 20000 -P 16 -d 1000 -t set,get
    check "redis, $version: still there" [ "$("${cli[@]}" ping)" = PONG ]
    check "redis, $version: ends" stop TERM
    went_through "redis, $version: sealed by uktls" tx_bytes $((2 * 10000007 + 2 * 20000 * 1000))
    check "redis, $version: nothing broke" [ "$(total errors)" -eq 0 ]
done
summary
