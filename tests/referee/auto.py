#!/usr/bin/env python3
"""Checks that UKTLS_MODE=auto left TLS to a kernel that has it.

Usage: auto.py DIRECTORY, which holds what the machine wrote: the observations have to be the kernel's
own, the statistics of the processes (UKTLS_STATS_FILE) must count no connection of ours, and the
kernel's (/proc/net/tls_stat) must have gone up. Ciphers that this kernel lacks are ours in that mode,
so their lines are left out of both.
"""
import json
import re
import sys
from pathlib import Path

MISSING_CIPHERS = re.compile(r"(REC-1|REC-5) .*/5[5678]:")


def counters(path):
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines() if line.strip())}


def main():
    directory = Path(sys.argv[1])
    failures = []
    kernel, auto = ([line for line in (directory / name).read_text().splitlines() if not MISSING_CIPHERS.match(line)]
                    for name in ("kernel.out", "auto.out"))
    for theirs, mine in zip(kernel, auto):
        if theirs != mine:
            failures.append(f"auto differs from the kernel alone:\n  kernel: {theirs}\n  auto:   {mine}")
    if len(kernel) != len(auto):
        failures.append(f"{len(kernel)} lines over the kernel, {len(auto)} with auto")
    before, after = (counters(directory / name) for name in ("before.tls_stat", "auto.tls_stat"))
    for name in ("TlsTxSw", "TlsRxSw"):
        if after[name] <= before[name]:
            failures.append(f"{name} of the kernel did not go up: {before[name]}, {after[name]}")
    processes = [json.loads(line) for line in (directory / "auto.stats").read_text().splitlines() if line.strip()]
    if not processes:
        failures.append("no process wrote statistics")
    ours = [p for p in processes if p["tx_sw"] or p["rx_sw"]]
    # One process each for what the kernel lacks: "records on the wire" and "records opened".
    if len(ours) > 2:
        failures.append(f"{len(ours)} processes had connections of ours: {ours}")
    print("\n".join(failures) or
          f"auto: {len(processes)} processes, {after['TlsTxSw'] - before['TlsTxSw']} sending and "
          f"{after['TlsRxSw'] - before['TlsRxSw']} receiving connections of the kernel, "
          f"{sum(p['tx_sw'] for p in processes)} and {sum(p['rx_sw'] for p in processes)} of ours")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
