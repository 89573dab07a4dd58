#!/usr/bin/env python3
"""Judges a run of the kernel's TLS selftest over the preload library.

  judge.py OUTPUT STATS DIFFERENCES

OUTPUT is what the test printed (TAP), STATS the lines of UKTLS_STATS_FILE, DIFFERENCES the tests that may fail,
`name: reason` a line: those have to fail, and no other may.
"""

import json
import re
import sys

RESULT = re.compile(r"^(ok|not ok) \d+ (\S+)(.*)$", re.M)


def main(output_name, stats_name, differences_name):
    with open(output_name, errors="replace") as file:
        output = file.read()
    with open(stats_name) as file:
        processes = [json.loads(line) for line in file]
    with open(differences_name) as file:
        lines = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    known = dict(line.split(": ", 1) for line in lines)

    faults = []
    plan = re.search(r"^1\.\.(\d+)$", output, re.M)
    results = RESULT.findall(output)
    if not plan or len(results) != int(plan[1]):
        faults.append(f"{len(results)} results of {plan[1] if plan else 'no'} tests: {output[-200:]!r}")
    for result, name, rest in results:
        if "SKIP" in rest:
            faults.append(f"{name}: skipped")
        elif (result == "ok") == (name in known):
            faults.append(f"{name}: {result}" + (", but listed as different" if name in known else ""))
    # The test goes on without TLS where it finds none, and most of it passes on plain TCP.
    if "testing without tls" in output or "Failure setting TCP_ULP" in output:
        faults.append("some tests found no TLS")
    with_keys = sum(process["tx_sw"] + process["rx_sw"] > 0 for process in processes)
    # Every test of these fixtures sets keys, in a process of its own.
    wanted = sum(name.startswith("tls") for _, name, _ in results)
    if with_keys < wanted:
        faults.append(f"{wanted} tests set keys, but only {with_keys} processes gave them to the library")

    for fault in faults:
        print("FAIL", fault)
    passed = sum(result == "ok" for result, _, _ in results)
    print(f"selftest: {passed} passed, {len(known)} known to differ; {with_keys} processes had keys in the library")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
