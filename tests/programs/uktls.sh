#!/usr/bin/env bash
# The command `uktls`: run, check, stat, over real programs.
# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

uktls=$(realpath "$PREFIX")/bin/uktls
# What the files of --openssl-ktls are called depends on it.
export TMPDIR=$work/tmp
mkdir "$TMPDIR"
mkdir "$work/www"
new_file "$work/www/file" 30000001

# status NUMBER COMMAND...: COMMAND ends with that exit status
status() {
    local wanted=$1 got=0
    shift
    "$@" >"$work/out" 2>"$work/err" || got=$?
    [ "$got" = "$wanted" ] || { echo "exit status $got" >&2; return 1; }
}
prints() { grep -qF -- "$1" "$2"; }

# --- run ------------------------------------------------------------------------------------------

check 'the exit status is the program'\''s' status 7 "$uktls" run -- sh -c 'exit 7'
check 'no such program: 127' status 127 "$uktls" run -- "$work/nothing"
check 'not to be run: 126' status 126 "$uktls" run -- "$work/www/file"
check 'no program: 2' status 2 "$uktls" run
check 'a wrong option: 2' status 2 "$uktls" run --mode perhaps -- true
check 'the process is the program' status 0 sh -c '"$0" run -- sh -c "echo \$\$" >"$1" & wait; [ "$(cat "$1")" = $! ]' "$uktls" "$work/pid"
check 'what was preloaded stays' status 0 env LD_PRELOAD=libm.so.6 "$uktls" run -- sh -c 'case $LD_PRELOAD in *libuktls_preload.so:libm.so.6) ;; *) exit 1 ;; esac'
check 'the settings arrive' status 0 "$uktls" run --mode off --engine inline --aead rustcrypto --threads 3 \
    --tx-queue 65536 --linger-ms 5 --log debug:/dev/null --stats-file "$work/s" -- sh -c \
    '[ "$UKTLS_MODE $UKTLS_ENGINE $UKTLS_AEAD $UKTLS_THREADS $UKTLS_TX_QUEUE $UKTLS_LINGER_MS $UKTLS_LOG $UKTLS_STATS_FILE" = \
       "off inline rustcrypto 3 65536 5 debug:/dev/null $0" ]' "$work/s"
check '--stats: the exit status is the program'\''s' status 7 "$uktls" run --stats -- sh -c 'exit 7'
check '--stats: the signal is the program'\''s' status 143 sh -c '"$@"' - "$uktls" run --stats -- sh -c 'kill -TERM $$'
"$uktls" run --stats -- sh -c 'trap "exit 9" TERM; while :; do sleep 0.1; done' 2>/dev/null &
sleep 0.5
kill -TERM $!
check '--stats: a signal is passed on' status 9 wait $!

# --- run --openssl-ktls, and stat while it runs -----------------------------------------------------------

# The system's own settings have to go on holding.
cat >"$work/system.cnf" <<'CONF'
openssl_conf = somebody
[somebody]
ssl_conf = their_ssl
[their_ssl]
system_default = their_defaults
[their_defaults]
MinProtocol = TLSv1.3
Options = ServerPreference
CONF
free_port
mkfifo "$work/open"
exec {open}<>"$work/open"
setsid env OPENSSL_CONF="$work/system.cnf" "$uktls" run --mode always --stats --openssl-ktls -- sh -c \
    'cd "$1" && shift && exec openssl s_server "$@" <../open' - "$work/www" -WWW -naccept 3 -accept "127.0.0.1:$port" \
    -cert "$work/localhost.pem" -key "$work/localhost.key" >"$work/server.log" 2>"$work/summary" &
server=$!
pids+=("$server")
wait_for_port
check 'the system'\''s MinProtocol holds' status 35 "${get[@]}" --tls-max 1.2 "https://localhost:$port/file"
"${get[@]}" --http1.0 --limit-rate 10M "https://localhost:$port/file" -o "$work/got" &
reader=$!
sleep 1
"$uktls" stat --json >"$work/json"
pid=$(python3 - "$work/json" <<'PYTHON'
import json, sys
found = [p for p in json.load(open(sys.argv[1])) if p["program"] == "openssl" and p["curr_tx_sw"] == 1]
print(found[0]["pid"] if found else "")
PYTHON
)
check 'stat: the running server is there' [ -n "$pid" ]
check 'stat: one process' status 0 "$uktls" stat "$pid"
check 'stat: as a table' prints openssl "$work/out"
check 'stat: for Prometheus' status 0 "$uktls" stat --prometheus "$pid"
check 'stat: for Prometheus, a value' grep -qE "^uktls_tx_sw_total\{pid=\"$pid\",program=\"openssl\"\} 1$" "$work/out"
check 'stat: readable by its user only' [ "$(stat -c %a /dev/shm/uktls-"$pid"-*)" = 600 ]
check 'stat: no such process' status 1 "$uktls" stat 999999999
wait "$reader" || true
same 'what was served' "$work/www/file" cat "$work/got"
check 'the server ends' stop CONT
check '--stats: a connection' grep -qE '^  sent +1 connections, [0-9]+ records, 3000[0-9]+ bytes$' "$work/summary"
check 'stat: gone with the process' status 1 "$uktls" stat "$pid"
exec {open}>&-

# A process that was killed leaves its counters behind; the next look takes them away.
cat >"$work/killed.py" <<'PYTHON'
import os, signal, socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
client.setsockopt(socket.IPPROTO_TCP, 31, b"tls")
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
PYTHON
status 137 "${with_uktls[@]}" python3 "$work/killed.py" 2>/dev/null || true
cp "$work/out" "$work/killed"
killed=$(cat "$work/killed")
# Another one begins where this one was.
check 'the next process is killed too' status 137 "${with_uktls[@]}" python3 "$work/killed.py"
check 'what was left before it is away' [ -z "$(compgen -G "/dev/shm/uktls-$killed-*")" ]
killed=$(cat "$work/out")
check 'a killed process leaves a file' [ -n "$(compgen -G "/dev/shm/uktls-$killed-*")" ]
check 'stat takes it away' status 0 "$uktls" stat
check 'it is away' [ -z "$(compgen -G "/dev/shm/uktls-$killed-*")" ]

# --- check ----------------------------------------------------------------------------------------

check 'check: this machine' status 0 "$uktls" check
check 'check: a script' status 0 "$uktls" check ldd
printf 'int main(void) { return 0; }\n' >"$work/program.c"
cc -static -o "$work/static" "$work/program.c"
cc -o "$work/plain" "$work/program.c"
cc -o "$work/with-openssl" "$work/program.c" -Wl,--no-as-needed -lssl
check 'check: a static program' status 1 "$uktls" check "$work/static"
check 'check: says so' prints 'linked statically' "$work/out"
check 'run: says so, and runs it' status 0 "$uktls" run -- "$work/static"
check 'run: says so' prints 'linked statically' "$work/err"
check 'check: without TLS' status 0 "$uktls" check "$work/plain"
check 'check: OpenSSL' status 0 "$uktls" check "$work/with-openssl"
check 'check: says so' prints 'OpenSSL 3' "$work/out"
if [ "$(id -u)" = 0 ]; then
    chown nobody "$work/plain"
    chmod 4755 "$work/plain"
    check 'check: setuid' status 1 "$uktls" check "$work/plain"
fi
printf '#!%s\n' "$work/circle" >"$work/circle"
chmod 755 "$work/circle"
check 'check: a script that runs itself' status 1 "$uktls" check "$work/circle"
check 'run: a script that runs itself' status 126 "$uktls" run -- "$work/circle"
(
    trap '' PIPE
    "$uktls" run -- grep SigIgn /proc/self/status >"$work/ignored"
)
check 'run: what ignored SIGPIPE goes on doing so' status 0 grep -q 'SigIgn:.*1000$' "$work/ignored"
check 'run: what did not does not' status 0 "$uktls" run -- grep -q 'SigIgn:.*0000$' /proc/self/status
check 'run --openssl-ktls: within itself' status 0 "$uktls" run --openssl-ktls -- "$uktls" run --openssl-ktls -- \
    sh -c 'cat "$OPENSSL_CONF"'
check 'run --openssl-ktls: within itself, with the option' prints 'Options = KTLS' "$work/out"
check 'check: no such program' status 2 "$uktls" check "$work/nothing"

# --- help, manual, completions ------------------------------------------------------------------------

for command in run check stat; do
    "$uktls" "$command" --help >"$work/help"
    for option in $(grep -oE -- '--[a-z-]+' "$work/help" | sort -u); do
        [ "$option" = --help ] || check "uktls(1) has $command $option" prints "Fl \\-$(sed 's/^--//; s/-/\\-/g' <<<"$option")" docs/man/uktls.1
    done
done
for shell in bash zsh fish; do
    check "completions for $shell" status 0 "$uktls" completions "$shell"
    check "completions for $shell: name the options" prints openssl-ktls "$work/out"
done
summary
