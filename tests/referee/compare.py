#!/usr/bin/env python3
"""Compares what the probe said over the kernel's kTLS with what it said over this library.

Usage: compare.py KERNEL OURS DIFFERENCES...
Each line of the two files is "STATEMENT name: what came". DIFFERENCES list what may differ, both
values included, so that neither side can change unnoticed; several of these files are one list:

    STATEMENT name
      kernel: what the kernel says
      uktls: what this library says
      why: the reason

A difference that is not in the list fails, and so does an entry that is not, or no longer, true. What
differs is printed as an entry, without its reason.
"""
import re
import sys
from pathlib import Path


def observations(path):
    seen = {}
    for number, text in enumerate(Path(path).read_text(errors="replace").splitlines(), 1):
        match = re.fullmatch(r"([A-Z]+(?:-\d+)? [^:]*): ?(.*)", text)
        if not match:
            sys.exit(f"{path}:{number}: no observation: {text}")
        if match[1] in seen:
            sys.exit(f"{path}:{number}: twice: {match[1]}")
        seen[match[1]] = match[2]
    return seen


def read_allowed(path, entries):
    entry = None
    for number, text in enumerate(Path(path).read_text().splitlines(), 1):
        if not text.strip() or text.startswith("#"):
            continue
        field = re.fullmatch(r"  (kernel|uktls|why): ?(.*)", text)
        if field and entry is not None:
            entry[field[1]] = field[2]
        elif not text.startswith(" "):
            if text in entries:
                sys.exit(f"{path}:{number}: twice: {text}")
            entry = entries[text] = {}
        else:
            sys.exit(f"{path}:{number}: not understood: {text}")
    for name, entry in entries.items():  # those of the files before are complete
        if not {"kernel", "uktls", "why"} <= entry.keys() or not entry["why"]:
            sys.exit(f"{path}: {name}: kernel, uktls and why are wanted")


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    kernel, ours, entries = observations(sys.argv[1]), observations(sys.argv[2]), {}
    for path in sys.argv[3:]:
        read_allowed(path, entries)
    missing = "(nothing)"
    same, known, bad = 0, 0, 0
    for name in dict.fromkeys([*kernel, *ours, *entries]):
        theirs, mine = kernel.get(name, missing), ours.get(name, missing)
        entry = entries.get(name)
        if entry is None and theirs == mine:
            same += 1
        elif entry and (theirs, mine) == (entry["kernel"], entry["uktls"]) and theirs != mine:
            known += 1
        else:
            bad += 1
            print(f"{name}\n  kernel: {theirs}\n  uktls: {mine}")
            if entry and theirs == mine:
                print("  (the list says that they differ)")
            elif entry:
                print(f"  (the list says kernel: {entry['kernel']}\n                 uktls: {entry['uktls']})")
    print(f"{len(kernel)} observations: {same} the same, {known} known differences, {bad} not in order", file=sys.stderr)
    return 1 if bad or not kernel else 0


if __name__ == "__main__":
    sys.exit(main())
