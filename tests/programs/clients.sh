#!/usr/bin/env bash
# Clients of a server on OpenSSL and uktls, with and without the library themselves.
# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

export OPENSSL_CONF=$work/openssl.cnf
new_file "$work/file" 20000003
free_port
start python3 tests/programs/server.py ThreadingTCPServer "$port" "$work"
wait_for_port
url=https://localhost:$port/

for library in '' with; do
    under=()
    [ -z "$library" ] || under=("${with_uktls[@]}")
    same "wget (GnuTLS) $library" "$work/file" "${under[@]}" wget -q --no-proxy --ca-certificate="$work/ca.pem" -O - "$url"
    same "curl $library" "$work/file" "${under[@]}" "${get[@]}" "$url"
done

stop INT || true
summary
