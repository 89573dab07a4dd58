# Sourced by the tests of real programs. Each starts its program on a free port, under the preload library, and
# leaves nothing running.
#
# Environment: PREFIX, the installed library.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

: "${PREFIX:?the installed library: make stage, then PREFIX=build/stage}"
export LC_ALL=C
unset LD_LIBRARY_PATH
preload=$(realpath "$PREFIX")/lib/libuktls_preload.so
limit=60 # seconds for one client
work=$(mktemp -d)
chmod 755 "$work"

pids=()
cleanup() {
    for pid in "${pids[@]}"; do
        # A server of several processes is a group of its own.
        kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
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
# The last line of every test.
summary() {
    echo "$(basename "$0" .sh): $passed passed, $failed failed"
    [ "$failed" = 0 ]
}

# shellcheck source=tests/certificates.sh
. tests/certificates.sh
new_certificates

# OpenSSL asks for kernel TLS; what a program sets by itself goes on top.
cat >"$work/openssl.cnf" <<'CONF'
openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = defaults
[defaults]
Options = KTLS
CONF

# --- programs -----------------------------------------------------------------------------------

# Puts a program under the library: "${with_uktls[@]}" COMMAND...
with_uktls=(env "LD_PRELOAD=$preload" UKTLS_MODE=always "UKTLS_STATS_FILE=$work/stats" "UKTLS_LOG=info:$work/log")

# Sets `port`: free a moment ago.
free_port() {
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
}

# start COMMAND...: under the library, in a process group of its own; sets `server`.
start() {
    "${with_uktls[@]}" setsid "$@" >"$work/server.log" 2>&1 &
    server=$!
    pids+=("$server")
}

# Waits until the program that `start` started listens on `port`.
wait_for_port() {
    local i
    for i in $(seq 100); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            return
        fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    echo "$(basename "$0"): the program does not start:" >&2
    tail -n 20 "$work/server.log" >&2
    exit 1
}

# stop SIGNAL: ends the program within half a minute; returns its exit status.
stop() {
    local status=0 i
    kill "-$1" "$server" 2>/dev/null || true
    for i in $(seq 300); do
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$server" 2>/dev/null || true
    wait "$server" || status=$?
    return "$status"
}

# --- what was sent ------------------------------------------------------------------------------

# total COUNTER: over all processes that have ended since the last `forget`
total() {
    { cat "$work/stats" 2>/dev/null || true; } |
        awk -v key="\"$1\":" '{ if (i = index($0, key)) n += substr($0, i + length(key)) + 0 } END { print n + 0 }'
}
forget() { rm -f "$work/stats" "$work/log"; }

# went_through NAME COUNTER BYTES
went_through() {
    local got
    got=$(total "$2")
    if [ "$got" -ge "$3" ]; then ok "$1"; else not_ok "$1" "$2 is $got, not $3 or more"; fi
}

new_file() { head -c "$2" /dev/urandom >"$1"; }
hash_of() { sha256sum | cut -d ' ' -f 1; }

# same NAME FILE COMMAND...: COMMAND prints the contents of FILE
same() {
    local name=$1 file=$2 got
    shift 2
    if ! got=$(timeout "$limit" "$@" 2>"$work/client.log" | hash_of); then
        not_ok "$name" "failed: $(tail -n 3 "$work/client.log")"
    elif [ "$got" != "$(hash_of <"$file")" ]; then
        not_ok "$name" "wrong bytes: $(tail -n 3 "$work/client.log")"
    else
        ok "$name"
    fi
}

get=(curl -sS --fail --noproxy '*' --cacert "$work/ca.pem")
