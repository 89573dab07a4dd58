"""The call graph of the C library's binary: which of its functions can reach which system calls.

Functions are the ranges of `.eh_frame` and of the symbols, those of the separate debug information included: most
functions have no name in the library itself. An edge is a direct call or jump, or an address taken, as a function
whose address is taken may be called by whoever takes it. A call through a table of functions for streams is an edge to
all of those.
"""

import bisect
import os
import re
import struct
import subprocess

# Numbers of x86-64.
WRITES = {
    "write": 1, "pwrite64": 18, "writev": 20, "sendfile": 40, "sendto": 44, "sendmsg": 46, "io_submit": 209,
    "splice": 275, "tee": 276, "vmsplice": 278, "pwritev": 296, "sendmmsg": 307, "copy_file_range": 326,
    "pwritev2": 328, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
}
READS = {
    "read": 0, "pread64": 17, "readv": 19, "recvfrom": 45, "recvmsg": 47, "preadv": 295, "recvmmsg": 299,
    "preadv2": 327,
}
NAMES = {number: name for name, number in {**WRITES, **READS}.items()}
# A number that is not written beside its instruction may be any.
UNKNOWN = "unknown"

REGISTERS = {}
for letter in "abcd":
    for name in (f"r{letter}x", f"e{letter}x", f"{letter}x", f"{letter}l"):
        REGISTERS[name] = f"r{letter}x"
for name in ("si", "di", "bp", "sp"):
    REGISTERS.update({f"r{name}": f"r{name}", f"e{name}": f"r{name}", name: f"r{name}"})
for number in range(8, 16):
    REGISTERS.update({f"r{number}{width}": f"r{number}" for width in ("", "d", "w", "b")})


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "LC_ALL": "C"}).stdout


def symbols(file, table):
    """(name, version, whether that is the default, address) of the functions that `file` defines."""
    for line in output("readelf", "-W", table, file).splitlines():
        fields = line.split()
        if len(fields) < 8 or fields[3] not in ("FUNC", "IFUNC") or fields[6] == "UND":
            continue
        name, _, version = fields[7].partition("@")
        # `@@` is the version that new programs are linked to.
        yield name, version.lstrip("@"), version.startswith("@"), int(fields[1], 16)


def debug_file(library):
    build_id = re.search(r"Build ID: ([0-9a-f]+)", output("readelf", "-n", library)).group(1)
    return f"/usr/lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug"


class Graph:
    def __init__(self, library):
        # By name, less those that only the parts of the C library itself bind to.
        self.exports = {}
        self.private = set()
        # Names that no new program can be linked to.
        self.old = set()
        self.names = {}
        starts = set()
        for name, version, is_default, address in symbols(library, "--dyn-syms"):
            if version == "GLIBC_PRIVATE":
                self.private.add(name)
            else:
                self.exports.setdefault(name, set()).add(address)
                if is_default:
                    self.old.discard(name)
                elif len(self.exports[name]) == 1:
                    self.old.add(name)
            self.names.setdefault(address, set()).add(name)
            starts.add(address)
        for name, _, _, address in symbols(debug_file(library), "--symbols"):
            self.names.setdefault(address, set()).add(name)
            starts.add(address)
        for begin in re.findall(r" FDE .*pc=([0-9a-f]+)\.\.", output("readelf", "--debug-dump=frames,no-follow-links", library)):
            starts.add(int(begin, 16))
        section = re.search(r"__libc_IO_vtables\s+PROGBITS\s+([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)",
                            output("readelf", "-SW", library))
        first, offset, size = (int(field, 16) for field in section.groups())
        self.tables = range(first, first + size)
        self.starts = sorted(starts)
        self.edges = {}
        # Functions that call through a table for streams.
        self.dispatching = set()
        self.calls = {}
        self.read_code(library)
        self.read_tables(library, offset)

    def function_of(self, address):
        at = bisect.bisect_right(self.starts, address) - 1
        return self.starts[at] if at >= 0 else None

    def read_code(self, library):
        instruction = re.compile(r"^ +([0-9a-f]+):\t(?:(?:bnd|notrack|lock|rep\w*) )*(\S+)(?: +([^#<]*))?(?:.*# ([0-9a-f]+))?")
        function, code = None, []
        is_start = set(self.starts)
        for line in output("objdump", "-d", "--no-show-raw-insn", "-j", ".text", library).splitlines():
            found = instruction.match(line)
            if not found:
                continue
            address, name, operands = int(found[1], 16), found[2], (found[3] or "").strip()
            if address in is_start:
                function, code = address, []
            code.append((name, operands))
            edges = self.edges.setdefault(function, set())
            if name == "syscall":
                self.calls.setdefault(function, set()).update(self.numbers(code))
            elif (name.startswith("j") or name == "call") and re.fullmatch(r"[0-9a-f]+", operands):
                to = self.function_of(int(operands, 16))
                if to != function:
                    edges.add(to)
            elif found[4]:
                target = int(found[4], 16)
                if name == "lea" and target in is_start:
                    edges.add(target)
                # The table of a stream is checked to be one of these before it is used.
                if name == "lea" and target == self.tables.start:
                    self.dispatching.add(function)

    @staticmethod
    def numbers(code):
        """What rax may be at the last instruction."""
        wanted, result = "rax", set()
        for name, operands in reversed(code[:-1]):
            parts = operands.rsplit(",", 1)
            if len(parts) != 2 or REGISTERS.get(parts[1].lstrip("%")) != wanted or name.startswith(("cmp", "test")):
                continue
            source = parts[0]
            if name.startswith("xor") and source == parts[1]:
                result.add(0)
            elif name.startswith("mov") and source.startswith("$"):
                result.add(int(source[1:], 0))
            elif name.startswith("mov") and source.lstrip("%") in REGISTERS:
                wanted = REGISTERS[source.lstrip("%")]
                continue
            else:
                return {UNKNOWN}
            break
        return result or {UNKNOWN}

    def read_tables(self, library, offset):
        """The functions for streams. Their addresses are there, or in relocations (RELA)."""
        with open(library, "rb") as file:
            file.seek(offset)
            words = {word for word, in struct.iter_unpack("<Q", file.read(len(self.tables) // 8 * 8))}
        for line in output("readelf", "-rW", library).splitlines():
            fields = line.split()
            if len(fields) >= 4 and fields[2] == "R_X86_64_RELATIVE" and int(fields[0], 16) in self.tables:
                words.add(int(fields[3], 16))
        self.for_streams = words & set(self.starts)

    def name(self, function):
        names = self.names.get(function)
        # The shortest, without the marks of local aliases.
        return min(names, key=lambda name: (name.startswith("__GI_"), len(name), name)) if names else f"{function:x}"

    def reached(self, export, cuts):
        """System calls that can be reached from `export` without entering a function of `cuts`: for each, the way."""
        ways, queue = {}, sorted(self.exports[export])
        seen = dict.fromkeys(queue)
        for function in queue:
            if function in cuts:
                continue
            for number in self.calls.get(function, ()):
                if number == UNKNOWN or number in NAMES:
                    way, at = [], function
                    while at is not None:
                        way.append(self.name(at))
                        at = seen[at]
                    ways.setdefault(NAMES.get(number, UNKNOWN), way[::-1])
            following = set(self.edges.get(function, ()))
            if function in self.dispatching:
                following |= self.for_streams
            for to in sorted(following):
                if to not in seen:
                    seen[to] = function
                    queue.append(to)
        return ways
