#!/usr/bin/env python3
"""Compares walks (walk.c) over the kernel's kTLS with the same walks over this library.

Usage: walk.py KERNEL OURS
Prints of each walk the first call that had another result, and the calls before it.
"""
import re
import sys
from pathlib import Path


def walks(path):
    found = {}
    for text in Path(path).read_text(errors="replace").splitlines():
        match = re.fullmatch(r"WALK (\w+ \d+)\.(\w+): ?(.*)", text)
        if not match:
            sys.exit(f"{path}: no line of a walk: {text}")
        found.setdefault(match[1], []).append((match[2], match[3]))
    return found


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    kernel, ours = walks(sys.argv[1]), walks(sys.argv[2])
    if not kernel or kernel.keys() != ours.keys():
        sys.exit(f"not the same walks: {sorted(kernel.keys() ^ ours.keys())[:5]}")
    differ = 0
    for name, steps in kernel.items():
        for at, (theirs, mine) in enumerate(zip(steps, ours[name])):
            if theirs != mine:
                differ += 1
                print(f"{name}")
                for step, what in steps[max(0, at - 8) : at]:
                    print(f"    {step}: {what}")
                print(f"  kernel: {theirs[0]}: {theirs[1]}\n  uktls:  {mine[0]}: {mine[1]}")
                break
        else:
            if len(steps) != len(ours[name]):
                differ += 1
                print(f"{name}: {len(steps)} and {len(ours[name])} lines")
    print(f"{len(kernel)} walks, {differ} differ", file=sys.stderr)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
