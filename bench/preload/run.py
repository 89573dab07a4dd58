#!/usr/bin/env python3
"""What the preload library costs a program without TLS: per call, and at the start of a process.

  run.py CALLS LIBRARY    CALLS: the program made from calls.c

Runs alternate, with the library and without; the figures are medians of the differences of pairs.
"""

import os
import statistics
import subprocess
import sys
import time

PAIRS = 15
STARTS = 200


def environment(library):
    return {**os.environ, "LD_PRELOAD": library} if library else dict(os.environ)


def calls(program, library):
    output = subprocess.run([program], env=environment(library), capture_output=True, text=True, check=True).stdout
    return {name: float(ns) for name, ns in map(str.split, output.splitlines())}


def start(library):
    begin = time.perf_counter()
    os.waitpid(os.posix_spawn("/bin/true", ["true"], environment(library)), 0)
    return (time.perf_counter() - begin) * 1e3


def main(program, library):
    pairs = [(calls(program, None), calls(program, library)) for _ in range(PAIRS)]
    print(f"{'call':8} {'plain ns':>9} {'more ns':>9}")
    for name in pairs[0][0]:
        plain = statistics.median(without[name] for without, _ in pairs)
        more = statistics.median(under[name] - without[name] for without, under in pairs)
        print(f"{name:8} {plain:9.1f} {more:9.1f}")
    starts = [(start(None), start(library)) for _ in range(STARTS)]
    plain = statistics.median(without for without, _ in starts)
    more = statistics.median(under - without for without, under in starts)
    print(f"/bin/true: {plain:.2f} ms, {more:+.2f} ms with the library")


if __name__ == "__main__":
    main(*sys.argv[1:])
