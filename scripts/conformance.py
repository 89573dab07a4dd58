#!/usr/bin/env python3
"""docs/conformance.md from tests/data/statements.txt and the tests that name the statements.

  conformance.py check       the page lists what the tests name, and every statement that is claimed
                             (`=`, `+`) is named by a test
  conformance.py write LOG   writes the page; LOG is the output of the tests
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/conformance.md"
STATEMENTS = ROOT / "tests/data/statements.txt"
PREFIXES = "ATT|CI|RK|REC|TX|AS|RX|MT|ST"
ID = re.compile(rf"\b({PREFIXES})-(\d+)\b(?:\s+to\s+\1-(\d+)\b)?")
IN_NAME = re.compile(rf"(?:^|_)({PREFIXES.lower()})(\d+)(?=_|$)")

HEAD = """# Conformance

What a Linux kernel does on a kTLS socket (the software path of 7.x kernels), one statement a line,
what this library does, the tests that check it, and whether they passed when this page was made.
Comments and tests name the statements by these numbers.

`=` the same. `+` different on purpose, in favour of the program. `-` a limit. `n/a` does not apply.

This page is made by `make conformance`, which runs the tests: edit tests/data/statements.txt. `make
test` fails if a statement marked `=` or `+` is named by no test, if a number that is used somewhere is
missing here, or if the tests listed are not those that there are.
"""


def named(text):
    """The statements that a text names: `TX-7`, `TX-7 to TX-9`. Comments are wrapped."""
    text = re.sub(r"\s*\n\s*(\*|///?!?)\s", " ", text)
    found = set()
    for prefix, first, last in ID.findall(text):
        for number in range(int(first), int(last or first) + 1):
            found.add(f"{prefix}-{number}")
    return found


def functions(text, start, comment):
    """(name, text) of the functions that `start` matches, with the comment in front of each. Relies on
    the formatter: a function ends with the brace that is indented like its first line."""
    lines = text.split("\n")
    for at, line in enumerate(lines):
        match = start.match(line)
        if not match:
            continue
        indent = line[: len(line) - len(line.lstrip())]
        end = at
        while end + 1 < len(lines) and not lines[end].startswith(indent + "}"):
            end += 1
        begin = at
        while begin > 0 and comment.match(lines[begin - 1]):
            begin -= 1
        yield match.group("name"), "\n".join(lines[begin : end + 1])


def with_helpers(text, start, comment):
    """{name: (text, statements)} of the functions of a file, with what the functions of the file that
    they call name."""
    bodies = dict(functions(text, start, comment))
    own = {name: named(body) for name, body in bodies.items()}
    calls = {
        name: {called for called in re.findall(r"\b(\w+)\(", body) if called in bodies}
        for name, body in bodies.items()
    }
    every = {}
    for name in bodies:
        reached, todo = set(), [name]
        while todo:
            at = todo.pop()
            if at not in reached:
                reached.add(at)
                todo += calls[at]
        every[name] = (bodies[name], set().union(*(own[at] for at in reached)))
    return every


C_FUNCTION = re.compile(r"(?:[a-z_]\w*[ *]+)+(?P<name>\w+)\([^;]*$")
C_COMMENT = re.compile(r"(/\*| \*)")
RUST_FUNCTION = re.compile(r"\s*(?:pub(?:\(\w+\))? )?fn (?P<name>\w+)\(")
RUST_COMMENT = re.compile(r"\s*(//|#\[)")


def tests():
    """(file, name) of every test, with the statements that it names."""
    found = {}
    for path in sorted((ROOT / "c-tests").glob("test_*.c")):
        text = path.read_text()
        for name, (body, ids) in with_helpers(text, C_FUNCTION, C_COMMENT).items():
            if not name.startswith("test_"):
                continue
            if not re.search(rf"cmocka_unit_test\w*\(\s*{name}\b", text):
                sys.exit(f"{path.name}: {name} is not in the list of its file")
            for prefix, number in IN_NAME.findall(name):
                ids.add(f"{prefix.upper()}-{number}")
            found[str(path.relative_to(ROOT)), name] = ids
    for folder in ("src", "tests", "c-tests", "cli", "preload"):
        for path in sorted((ROOT / folder).rglob("*.rs")):
            if "target" in path.parts:
                continue
            functions_of = with_helpers(path.read_text(), RUST_FUNCTION, RUST_COMMENT)
            for name, (body, ids) in functions_of.items():
                if re.search(r"#\[test\]", body):
                    found[str(path.relative_to(ROOT)), name] = ids
    return found


def used():
    """The statements that are named anywhere in the sources."""
    ids = set()
    for folder in ("src", "tests", "c-tests", "cli", "preload", "include"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".rs", ".c", ".h") and "target" not in path.parts:
                ids |= named(path.read_text())
    return ids


def statements():
    """Sections: (title, [(id, kernel, here)])."""
    sections = []
    for line in STATEMENTS.read_text().split("\n"):
        if line.startswith("## "):
            sections.append((line[3:], []))
        elif line and not line.startswith("#"):
            cells = line.split(" | ")
            if len(cells) != 3 or not re.match(r"(=|\+|-|n/a)( |$)", cells[2]):
                sys.exit(f"{STATEMENTS.name}: three columns, the last with =, +, - or n/a: {line}")
            sections[-1][1].append(tuple(cells))
    return sections


def results(log):
    """{(file, name): passed} from what `make test-rust test-loom test-c` has printed."""
    outcome = {}

    def note(file, name, passed):
        key = (file, name)
        outcome[key] = outcome.get(key, True) and passed

    file = None
    for line in log.split("\n"):
        if match := re.match(r"c-tests: \S*/(test_\w+)$", line):
            file = f"c-tests/{match[1]}.c"
        elif match := re.match(r"\[ +(OK|FAILED|ERROR) +\] (test_\w+)$", line):
            note(file, match[2], match[1] == "OK")
        elif match := re.match(r"\s+Running (?:unittests )?(\S+\.rs) ", line):
            file = match[1]
        elif match := re.match(r"test (\S+)(?: - should panic)? \.\.\. (\w+)", line):
            # A test that wants more than `cargo test` gives it runs by itself.
            if match[2] != "ignored":
                note(file, match[1], match[2] == "ok")
    return outcome


def find(outcome, file, name):
    """Whether a test passed; None if it did not run."""
    if file.endswith(".c"):
        return outcome.get((file, name))
    modules = [part for part in Path(file).with_suffix("").parts if part not in ("src", "mod", "lib")]
    for (ran, path), passed in outcome.items():
        parts = path.split("::")
        if parts[-1] != name:
            continue
        # Integration tests are named by their file, the others by their module.
        folder = ran.removesuffix("main.rs") if ran.startswith("tests/") else ran
        if file.endswith(ran) or (folder != ran and file.startswith(folder)) or (ran == "src/lib.rs" and parts[: len(modules)] == modules):
            return passed
    return None


def page(found, outcome):
    by_id = {}
    for key, ids in found.items():
        for statement in ids:
            by_id.setdefault(statement, []).append(key)
    out = [HEAD]
    for title, rows in statements():
        out.append(f"## {title}\n\n| | the kernel | uktls | tests | result |\n| --- | --- | --- | --- | --- |")
        for statement, kernel, here in rows:
            files = {}
            for file, name in by_id.get(statement, []):
                files.setdefault(file, []).append(name)
            tests_cell = "; ".join(f"{file}: {', '.join(names)}" for file, names in files.items())
            ran = [(name, find(outcome, file, name)) for file, name in by_id.get(statement, [])]
            bad = [f"{name} {'failed' if ok is False else 'not run'}" for name, ok in ran if not ok]
            result = ", ".join(bad) if bad else "passed" if ran else ""
            out.append(f"| {statement} | {kernel} | {here} | {tests_cell} | {result} |")
        out.append("")
    return "\n".join(out).rstrip("\n") + "\n"


def without_results(text):
    return [re.sub(r"[^|]*\|$", "|", line) for line in text.split("\n")]


def main():
    found = tests()
    listed = {row[0]: row[2] for _, rows in statements() for row in rows}
    named_by_tests = set().union(*found.values())
    claimed = {statement for statement, here in listed.items() if here[0] in "=+"}
    faults = [f"{s}: named in the sources, not in {STATEMENTS.name}" for s in used() - set(listed)]
    faults += [f"{s}: claimed, and named by no test" for s in claimed - named_by_tests]
    if sys.argv[1:2] == ["write"] and len(sys.argv) == 3:
        PAGE.write_text(page(found, results(Path(sys.argv[2]).read_text(errors="replace"))))
    elif sys.argv[1:] == ["check"]:
        old, new = without_results(PAGE.read_text()), without_results(page(found, {}))
        if old != new:
            faults.append("docs/conformance.md is out of date: run `make conformance`")
    else:
        sys.exit(__doc__)
    if faults:
        sys.exit("conformance: " + "\nconformance: ".join(sorted(faults)))


main()
