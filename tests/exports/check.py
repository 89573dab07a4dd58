#!/usr/bin/env python3
"""Whether every function of the C library that reads or writes is known.

A function that reads or writes by a system call of its own goes around the functions that are interposed. So each
export of the C library from which such a call can be reached (graph.py) is interposed, or `table` says why it need not
be, and which test calls it. A version of the C library with one more fails here.

Usage: check.py LIBRARY, the preload library.
"""

import pathlib
import platform
import re
import sys

sys.dont_write_bytecode = True
from graph import Graph, READS, UNKNOWN, WRITES, debug_file, output  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
TESTS = HERE.parent.parent / "c-tests" / "preload"

# What must be found, or this test is blind: by a call of its own, by one of the C library's without a cancellation
# point, by another function, by a stream, by a number in a register.
KNOWN = {
    "write": "write", "__write": "write", "writev": "writev", "pwrite": "pwrite64", "pwritev2": "pwritev2",
    "send": "sendto", "sendmsg": "sendmsg", "sendmmsg": "sendmmsg", "sendfile64": "sendfile", "splice": "splice",
    "vmsplice": "vmsplice", "tee": "tee", "copy_file_range": "copy_file_range",
    "read": "read", "__read_chk": "read", "readv": "readv", "preadv64v2": "preadv2", "recv": "recvfrom",
    "__recvfrom_chk": "recvfrom", "recvmsg": "recvmsg", "recvmmsg": "recvmmsg",
    "psiginfo": "write", "pthread_setname_np": "write", "herror": "writev", "sem_open": "write",
    "eventfd_write": "write", "eventfd_read": "read", "backtrace_symbols_fd": "writev", "syslog": "sendto",
    "dprintf": "write", "__vdprintf_chk": "write", "fprintf": "write", "puts": "write", "fflush": "write",
    "fclose": "write", "perror": "write", "exit": "write", "fgets": "read", "fread": "read", "wprintf": "write",
    "aio_write": "write", "lio_listio": "write", "syscall": UNKNOWN,
}


class Table:
    """Sections `[kind of: reason]`, each with names."""

    KINDS = ("inside", "listed", "called", "stream", "old")

    def __init__(self, path):
        self.rows = {}
        self.tests = {}
        kind = test = None
        for line in path.read_text().splitlines():
            if not line or line.startswith("#"):
                continue
            head = re.fullmatch(r"\[(\w+)(?: (\w+))?: .+\]", line)
            if head:
                kind, test = head.groups()
                if kind not in self.KINDS or (test is not None) != (kind == "called"):
                    sys.exit(f"{path}: what is {line}?")
                continue
            for name in line.split():
                if name in self.rows:
                    sys.exit(f"{path}: {name} is there twice")
                self.rows[name] = kind
                if test:
                    self.tests.setdefault(test, set()).add(name)

    def of(self, kind):
        return {name for name, of in self.rows.items() if of == kind}


def faults_of(graph, interposed, rows, names=None):
    cuts = {address for address, names in graph.names.items() if any(rows.get(name) == "inside" for name in names)}
    faults = []
    for name in sorted(names or graph.exports):
        if name in interposed or graph.exports[name] <= cuts:
            continue
        ways = graph.reached(name, cuts)
        kind = rows.get(name)
        if not ways or kind in ("listed", "called"):
            continue
        if kind == "old" and name in graph.old:
            continue
        if kind == "stream":
            ways = graph.reached(name, cuts | graph.for_streams)
            if not ways:
                continue
        call, way = min(ways.items(), key=lambda item: len(item[1]))
        faults.append(f"{name}: {call} by {' > '.join(way)}: neither interposed nor in tests/exports/table")
    return faults


def main():
    if platform.machine() != "x86_64":
        print(f"exports: skipped, as graph.py does not read the instructions of {platform.machine()}")
        return 0
    preload = sys.argv[1]
    library = re.search(r"libc\.so\.\S+ => (\S+)", output("ldd", preload)).group(1)
    library = str(pathlib.Path(library).resolve())
    if not pathlib.Path(debug_file(library)).exists():
        print(f"exports: {library} has no debug information here: install libc6-dbg", file=sys.stderr)
        return 1
    graph = Graph(library)
    table = Table(HERE / "table")
    interposed = {line.split()[2] for line in output("nm", "-D", "--defined-only", preload).splitlines()}
    faults = []

    # That this sees anything.
    if len(graph.starts) < 2000 or len(graph.for_streams) < 40:
        faults.append(f"{len(graph.starts)} functions, {len(graph.for_streams)} of them for streams: too few")
    for name, call in KNOWN.items():
        if name not in graph.exports:
            faults.append(f"the C library has no {name}")
        elif call not in graph.reached(name, set()):
            faults.append(f"{name}: {call} is not found")
    seen = {number for numbers in graph.calls.values() for number in numbers}
    for name, number in {**WRITES, **READS}.items():
        if number not in seen and not name.startswith("io_"):
            faults.append(f"no function calls {name}")

    found = faults_of(graph, interposed, table.rows)
    faults += found

    # That it fails without any of what it goes by. Names of an older or newer C library are in nobody's way.
    known = set(KNOWN) & interposed
    for name in sorted(known):
        if not faults_of(graph, interposed - {name}, table.rows, {name}):
            faults.append(f"{name} could be missing among the interposed functions")
    for kind in Table.KINDS:
        if len(faults_of(graph, interposed, {n: k for n, k in table.rows.items() if k != kind})) <= len(found):
            faults.append(f"the table's section {kind} is not needed")
    for name in sorted(table.rows.keys() & graph.exports.keys() - table.of("inside")):
        if name in interposed:
            faults.append(f"{name} is interposed, and in the table")

    for test, names in table.tests.items():
        sources = [path.read_text() for path in TESTS.glob("test_*.c")]
        source = "".join(text for text in sources if f"cmocka_unit_test({test})" in text)
        body = re.search(rf"^static void {test}\(.*?^}}", source, re.MULTILINE | re.DOTALL)
        if not body:
            faults.append(f"there is no test {test}")
            continue
        for name in sorted(names & graph.exports.keys()):
            if not re.search(rf"\b{name}\(", body.group()):
                faults.append(f"{test} does not call {name}")

    for fault in faults:
        print(f"exports: {fault}", file=sys.stderr)
    if faults:
        return 1
    version = output("ldd", "--version").splitlines()[0]
    reaching = sum(1 for name in graph.exports if graph.reached(name, set()))
    print(f"exports: {version}: {len(graph.exports)} names, {reaching} reach a read or a write, "
          f"{len(graph.private)} private ones left out: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
