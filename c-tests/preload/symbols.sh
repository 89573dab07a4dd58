#!/usr/bin/env bash
# The preload library exports the functions of the C library that abi/preload.symbols lists, no more and no
# less; among them are all names by which the C library knows the calls of the design; and it needs
# nothing but the C library.
# Usage: symbols.sh LIBRARY
set -euo pipefail
cd "$(dirname "$0")/../.."

library=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0

fail() {
    echo "preload symbols: $1: FAILED" >&2
    status=1
}

sed -n '/^[a-z_]/p' abi/preload.symbols | sort >"$work/listed"
nm -D --defined-only "$library" | awk '{ print $3 }' | sort >"$work/exported"
diff -u "$work/listed" "$work/exported" || fail 'the exported names are not those of abi/preload.symbols'

# Every call by which bytes, a descriptor or an end of the process could pass the library, by all names
# that glibc exports for it, fortified ones included. A version of the C library that adds one to those
# that are exported for programs shows here.
calls='write send sendto sendmsg sendmmsg writev pwritev2 sendfile splice dprintf vdprintf
    aio_write aio_read lio_listio
    read recv recvfrom recvmsg recvmmsg readv preadv2 ioctl
    setsockopt getsockopt fcntl shutdown close close_range closefrom dup dup2 dup3
    socket socketpair accept accept4 connect fdopen fclose pclose freopen
    _exit _Exit daemon execve execv execvp execvpe execveat fexecve execl execlp execle posix_spawn_file_actions_adddup2
    poll ppoll select pselect'
libc=$(ldd "$library" | awk '$1 ~ /^libc\.so/ { print $3 }')
# Without those for the parts of the C library itself.
nm -D --defined-only --with-symbol-versions "$libc" | awk '$3 !~ /GLIBC_PRIVATE/ { sub(/@.*/, "", $3); print $3 }' |
    sort -u >"$work/libc"
for call in $calls; do
    twins="${call}
${call}64
${call/v2/v64v2}
__${call}
__${call}64
__${call}_chk
_IO_${call}"
    grep -qxF "$call" "$work/libc" || { fail "the C library has no $call"; continue; }
    for name in $(grep -xF "$twins" "$work/libc"); do
        grep -qxF "$name" "$work/exported" || fail "$name is not interposed"
    done
done

# Every function that takes a stream, or has standard input or output in mind: on a stream with a twin it would fail.
# Left out: what makes streams that have no descriptor, and what flushes all streams or prints an error of argp.
cat >"$work/streams.c" <<'END'
#include <argp.h>
#include <grp.h>
#include <gshadow.h>
#include <malloc.h>
#include <mntent.h>
#include <printf.h>
#include <pwd.h>
#include <shadow.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <wchar.h>
END
{
    cc -D_GNU_SOURCE -E -P "$work/streams.c" | tr '\n' ' ' | tr ';' '\n' | grep -E '\(.*\bFILE *\*' | grep -v typedef |
        sed -nE 's/^[^(]*[ *]([a-zA-Z_0-9]+) \(.*/\1/p'
    printf '%s\n' printf vprintf puts putchar putchar_unlocked wprintf vwprintf putwchar putwchar_unlocked \
        scanf vscanf gets getchar getchar_unlocked wscanf vwscanf getwchar getwchar_unlocked perror psignal \
        err errx verr verrx warn warnx vwarn vwarnx error error_at_line getpass herror
    sed -nE '/^(__isoc[0-9]+_v?f?w?scanf|__(v?f?w?printf|f(get|read)[a-z_]*|gets)_chk)$/p' "$work/libc" | grep -vE '_(isoc[0-9]+_v?s|v?s)'
} | sort -u | grep -xF -f "$work/libc" >"$work/streams"
[ "$(wc -l <"$work/streams")" -gt 100 ] || fail "only $(wc -l <"$work/streams") functions of streams found"
for name in $(cat "$work/streams"); do
    for twin in "$name" "_IO_$name" "__$name"; do
        case $twin in
        __argp_help | __argp_state_help | _IO_vfscanf | _IO_getline) continue ;;
        esac
        grep -qxF "$twin" "$work/libc" || continue
        grep -qxF "$twin" "$work/exported" || fail "$twin is not interposed"
    done
done

needs=$(readelf -dW "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort | xargs)
case $needs in
'libc.so.6' | 'ld-linux-'*' libc.so.6') ;;
*) fail "it needs $needs" ;;
esac
# A thread may still be in it, and its fork handlers stay.
readelf -dW "$library" | grep -q NODELETE || fail 'it can be unloaded'
[ $status -ne 0 ] || echo "preload symbols: $(wc -l <"$work/exported") names: ok"
exit $status
