#!/usr/bin/env bash
# Python's ssl module: a blocking server, and one that forks for each connection.
# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

new_file "$work/file" 50000003
for version in 1.2 1.3; do
    for server_class in TCPServer ThreadingTCPServer ForkingTCPServer; do
        free_port
        forget
        start python3 tests/programs/server.py "$server_class" "$port" "$work"
        wait_for_port
        name="$server_class, TLS $version"
        tls=("--tlsv$version" --tls-max "$version" --http1.1)
        same "$name" "$work/file" "${get[@]}" "https://localhost:$port/" "${tls[@]}"
        got=$("${get[@]}" -T "$work/file" "https://localhost:$port/" "${tls[@]}") || got="curl: $?"
        check "$name, upload" [ "$got" = "$(hash_of <"$work/file")" ]
        check "$name ends" stop INT
        went_through "$name: sealed by uktls" tx_bytes 50000003
        # OpenSSL 3.0 receives by kernel TLS in TLS 1.2 only.
        [ "$version" != 1.2 ] || went_through "$name: opened by uktls" rx_bytes 50000003
    done
done
summary
