#!/usr/bin/env bash
# A Rust program: rustls shakes hands and hands its secrets to SOL_TLS, and the standard library sends and receives.
# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

cargo build -q -p uktls-programs-rustls-server
new_file "$work/file" 40000007
free_port
start "${CARGO_TARGET_DIR:-target}/debug/uktls-programs-rustls-server" "$port" "$work/localhost.pem" "$work/localhost.key" "$work/file"
wait_for_port
for options in '--tls-max 1.2 --ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256' \
    '--tls-max 1.2 --ciphers ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305' \
    '--tls13-ciphers TLS_AES_128_GCM_SHA256' '--tls13-ciphers TLS_AES_256_GCM_SHA384' \
    '--tls13-ciphers TLS_CHACHA20_POLY1305_SHA256'; do
    read -ra tls <<<"$options"
    same "rustls, $options" "$work/file" "${get[@]}" "${tls[@]}" "https://localhost:$port/"
    rm -f "$work/file.put"
    check "rustls, $options, upload" "${get[@]}" "${tls[@]}" -T "$work/file" "https://localhost:$port/"
    same "rustls, $options, what came" "$work/file" cat "$work/file.put"
done
many() { seq 40 | xargs -P 8 -I '{}' "${get[@]}" -o "$work/many.{}" "https://localhost:$port/"; }
check 'many at once' many
check 'many at once: what came' [ "$(cat "$work"/many.* | hash_of)" = "$(for i in $(seq 40); do cat "$work/file"; done | hash_of)" ]
# A signal that is not handled ends a process without its line: what runs says what it has done.
check 'rustls: sealed by uktls' \
    [ "$("$PREFIX/bin/uktls" stat --json "$server" | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["tx_bytes"] >= 45 * 40000007)')" = True ]
stop TERM || true
summary
