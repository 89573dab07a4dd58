#!/usr/bin/env bash
# The C tests with the engine `openssl:<id>` over the test accelerator, in each of its moods.
# Usage: run.sh ACCELERATORS TESTS: the folder of the shared objects, and that of the test programs
set -euo pipefail

accelerators=$(realpath "$1")
tests=$(realpath "$2")
# The tests find their data from there.
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
not_ok() { failed=$((failed + 1)); echo "FAIL $1"; }

# mood NAME ID SETTINGS PROGRAM...: all pass, and the accelerator had several records at a time
mood() {
    local name=$1 id=$2 settings=$3 program
    shift 3
    rm -f "$work/log"
    for program in "$@"; do
        if ! UKTLS_ENGINE=${id:+openssl:$id} UKTLS_ACCELERATOR=$settings,log=$work/log \
            timeout 300 "$tests/$program" >"$work/out" 2>&1; then
            not_ok "$name: $program"
            grep -aE 'FAILED|ERROR|uktls:' "$work/out" | head -n 20
        fi
    done
    awk '{ n += $3; if ($5 > most) most = $5 } END { print "ok " name ": " n + 0 " records, up to " most + 0 " at a time"; exit n == 0 }' \
        name="$name" "$work/log" || not_ok "$name: nothing was sealed by it"
}

provider=$accelerators/uktls-accelerator.so
engine=$accelerators/uktls-accelerator-engine.so
some=(test_send test_records test_rekey test_sharing test_closing)
all=()
for program in "$tests"/test_*; do
    # OpenSSL's heap has the keys of an accelerated connection as long as it lives (docs/architecture.md).
    # And a thread of an accelerator's keeps its process, as one of the program's does.
    case ${program##*/} in test_keys | test_lone_threads) continue ;; esac
    [ ! -x "$program" ] || all+=("$(basename "$program")")
done

mood 'out of order' "$provider" latency_us=100,lanes=16,jitter_us=80 "${all[@]}"
mood 'told by descriptor' "$provider" latency_us=50,lanes=8,jitter_us=20,notify=fd "${some[@]}"
mood 'little room' "$provider" latency_us=20,lanes=2,depth=4 "${some[@]}"
mood 'a fifth fails' "$provider" latency_us=50,lanes=8,jitter_us=40,fail=200000 "${some[@]}"
UKTLS_ENGINE_TIMEOUT_MS=100 mood 'some are lost' "$provider" latency_us=50,lanes=8,lose=10000 "${some[@]}"
UKTLS_ENGINE_TIMEOUT_MS=20 mood 'all are lost' "$provider" latency_us=50,lose=1000000 test_send
mood 'it goes away' "$provider" latency_us=50,gone_after=20 "${some[@]}"
mood 'it knows no async jobs' "$provider" latency_us=20,lanes=8,async=0 "${some[@]}"
mood 'it has no thread of its own' "$provider" thread=0 test_lone_threads "${some[@]}"
[ ! -f "$engine" ] || mood 'as an ENGINE' "$engine" latency_us=100,lanes=16,jitter_us=80 "${some[@]}"
UKTLS_TEST_ENGINE_ID=$provider mood 'by uktls_configure' '' latency_us=50,lanes=8 "${some[@]}"
OPENSSL_MODULES=$accelerators mood 'by its name' uktls-accelerator latency_us=50,lanes=8 test_send

# What cannot be loaded: a message, and the processor does it, or the keys are refused.
if UKTLS_ENGINE=openssl:no-such timeout 300 "$tests/test_send" >"$work/out" 2>&1 &&
    grep -q 'uktls: engine openssl:no-such cannot be loaded: ' "$work/out"; then
    echo 'ok not there: sealed by the processor, with a message'
else
    not_ok 'not there'
fi
refused=$(UKTLS_ENGINE=openssl:no-such UKTLS_ENGINE_FALLBACK=error timeout 300 "$tests/test_send" 2>&1 || true)
case $refused in
*'No such file or directory'* | *ENOENT*) echo 'ok not there, no fallback: the keys are refused' ;;
*) not_ok 'not there, no fallback' ;;
esac
broken=$(UKTLS_ENGINE=openssl:$provider UKTLS_ENGINE_FALLBACK=error UKTLS_ACCELERATOR=fail=1000000 \
    timeout 300 "$tests/test_send" 2>&1 || true)
case $broken in
*'Bad message'* | *'ended after 0 of'*) echo 'ok it fails, no fallback: the connection breaks' ;;
*) not_ok 'it fails, no fallback' ;;
esac
[ "$failed" = 0 ] && echo 'accelerator: all in order'
