#!/usr/bin/env bash
# Programs that have nothing to do with TLS, and Python's own tests of sockets and processes: the same with the
# library as without.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# git: over pipes between its processes, and over a socket to its daemon.
export HOME=$work GIT_CONFIG_NOSYSTEM=1
git config --global user.name uktls
git config --global user.email uktls@localhost
git config --global init.defaultBranch main
mkdir "$work/repository"
(
    cd "$work/repository"
    git init -q
    for i in $(seq 200); do
        new_file "file$i" $((i * 500))
        git add "file$i"
    done
    git commit -q -m files
)
head_of() { git -C "$1" rev-parse HEAD; }
with() { LD_PRELOAD=$preload "$@"; }
check 'git: clones over a pipe' with git clone -q "file://$work/repository" "$work/piped"
check 'git: fsck of the clone' with git -C "$work/piped" fsck --full --strict
check 'git: the same commit' [ "$(head_of "$work/repository")" = "$(head_of "$work/piped")" ]
free_port
start git daemon --listen=127.0.0.1 --port="$port" --base-path="$work" --export-all --reuseaddr
wait_for_port
check 'git: clones over a socket' with git clone -q "git://127.0.0.1:$port/repository" "$work/served"
check 'git: the same commit' [ "$(head_of "$work/repository")" = "$(head_of "$work/served")" ]
stop TERM || true

mkdir "$work/unpacked"
packs() { with tar -C "$work" -cf - repository | with gzip -1 | with tar -C "$work/unpacked" -xzf -; }
check 'tar: through two pipes' packs
check 'tar: the same files' diff -r "$work/repository" "$work/unpacked/repository"

# Every test and its result, sorted. VSOCK is for virtual machines only.
results_of() {
    local test=$1 out=$2
    shift 2
    (
        cd "$work"
        timeout 600 "$@" python3 -m test -v -i '*VSOCK*' --junit-xml "$out.xml" "$test" </dev/null >"$out.log" 2>&1
    ) || true
    python3 - "$out.xml" >"$out" <<'PYTHON' || true
import sys, xml.etree.ElementTree as xml
for case in sorted(xml.parse(sys.argv[1]).iter("testcase"), key=lambda case: case.get("name")):
    print(case.get("name"), case.get("result"), *sorted({child.tag for child in case} - {"system-out", "system-err"}))
PYTHON
}
for test in ${UNCHANGED_TESTS:-test_socket test_ssl test_asyncio test_subprocess}; do
    results_of "$test" "$work/$test.without"
    results_of "$test" "$work/$test.with" env LD_PRELOAD="$preload"
    check "python: $test ran" [ -s "$work/$test.with" ]
    check "python: $test as without" diff "$work/$test.without" "$work/$test.with"
    echo "   $(wc -l <"$work/$test.with") tests: $(awk '{ $1 = ""; print }' "$work/$test.with" | sort | uniq -c | tr -s '\n ' ' ')"
done
summary
