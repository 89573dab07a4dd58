#!/usr/bin/env bash
# Programs whose TLS library writes through functions of theirs cannot use kernel TLS. With `Options = KTLS` set for
# all programs they work as without the library, and it says why it has left them alone.
# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

export OPENSSL_CONF=$work/openssl.cnf
new_file "$work/file" 20000003

# was_declined NAME: since the last `forget`, and no keys were taken
was_declined() {
    check "$1: declined" [ "$(total declined)" -gt 0 ]
    check "$1: no keys taken" [ "$(total tx_sw)$(total rx_sw)" = 00 ]
    check "$1: the log says why" grep -q 'writes by functions of the program' "$work/log"
}

# --- PostgreSQL -----------------------------------------------------------------------------------

postgres=$(dirname "$(ls -d /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)")
# It does not run as root.
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
mkdir "$work/pg"
[ "$(id -u)" != 0 ] || chown nobody:nogroup "$work/pg"
"${as[@]}" "$postgres/initdb" -D "$work/pg/data" -A trust -U tester -N >"$work/initdb.log"
cp "$work/localhost.pem" "$work/localhost.key" "$work/pg/data/"
[ "$(id -u)" != 0 ] || chown nobody:nogroup "$work"/pg/data/localhost.*
chmod 600 "$work/pg/data/localhost.key"
# Both write what they count to one file.
touch "$work/stats" "$work/log"
chmod 666 "$work/stats" "$work/log"
free_port
start "${as[@]}" "$postgres/postgres" -D "$work/pg/data" -p "$port" -c unix_socket_directories= -c ssl=on \
    -c ssl_cert_file=localhost.pem -c ssl_key_file=localhost.key -c fsync=off
wait_for_port
export PGHOST=localhost PGPORT=$port PGUSER=tester PGDATABASE=postgres PGSSLMODE=verify-full PGSSLROOTCERT=$work/ca.pem
psql=("${with_uktls[@]}" "$postgres/psql" -qAtX)
for i in $(seq 100); do
    "$postgres/pg_isready" -q && break
    sleep 0.1
done
check 'psql: over TLS' [ "$("${psql[@]}" -c 'select ssl from pg_stat_ssl where pid = pg_backend_pid()')" = t ]
# A few MiB in one statement, there and back.
value=$(head -c 3000000 /dev/urandom | base64 -w 0)
check 'psql: a large value' [ "$(printf "select md5('%s')" "$value" | "${psql[@]}")" = "$(printf %s "$value" | md5sum | cut -d ' ' -f 1)" ]
check 'psql: a large answer' [ "$("${psql[@]}" -c "select repeat('0123456789', 1000000)" | tr -d '\n' | md5sum)" = "$(yes 0123456789 | head -n 1000000 | tr -d '\n' | md5sum)" ]
check 'pgbench: initialised' "${with_uktls[@]}" "$postgres/pgbench" -q -i -s 1
check 'pgbench: 4 clients' "${with_uktls[@]}" "$postgres/pgbench" -n -c 4 -j 2 -t 200 -S
check 'PostgreSQL: ends' stop INT
was_declined PostgreSQL
unset PGHOST PGPORT PGUSER PGDATABASE PGSSLMODE PGSSLROOTCERT

# --- curl, and what else is there --------------------------------------------------------------------

forget
free_port
start env LD_PRELOAD= python3 tests/programs/server.py ThreadingTCPServer "$port" "$work"
wait_for_port
for version in 1.2 1.3; do
    same "curl, TLS $version" "$work/file" "${with_uktls[@]}" "${get[@]}" "https://localhost:$port/" --tls-max "$version"
    got=$("${with_uktls[@]}" "${get[@]}" -T "$work/file" "https://localhost:$port/" --tls-max "$version") || got="curl: $?"
    check "curl, TLS $version, upload" [ "$got" = "$(hash_of <"$work/file")" ]
done
if command -v node >/dev/null; then
    NODE_EXTRA_CA_CERTS=$work/ca.pem same 'Node.js' "$work/file" "${with_uktls[@]}" node -e \
        'require("https").get(process.argv[1], r => r.pipe(process.stdout))' "https://localhost:$port/"
fi
if command -v haproxy >/dev/null; then
    backend=$port
    free_port
    cat "$work/localhost.key" "$work/localhost.pem" >"$work/both.pem"
    cat >"$work/haproxy.cfg" <<CONF
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend test
    bind 127.0.0.1:$port ssl crt $work/both.pem
    default_backend test
backend test
    server test 127.0.0.1:$backend ssl verify none
CONF
    python=$server
    start haproxy -db -f "$work/haproxy.cfg"
    wait_for_port
    for version in 1.2 1.3; do
        same "HAProxy, TLS $version" "$work/file" "${get[@]}" "https://localhost:$port/" --tls-max "$version"
        got=$("${get[@]}" -T "$work/file" "https://localhost:$port/" --tls-max "$version") || got="curl: $?"
        check "HAProxy, TLS $version, upload" [ "$got" = "$(hash_of <"$work/file")" ]
    done
    stop TERM || true
    server=$python
fi
check 'no keys of the clients taken' [ "$(total tx_sw)$(total rx_sw)" = 00 ]
stop INT
summary
