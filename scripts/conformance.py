#!/usr/bin/env python3
"""Makes docs/conformance.md: each statement, the tests that name it, and how they ended.

Usage: conformance.py LOG...   the output of `cargo test` and of the C tests
       conformance.py --check  fails if the page does not name the tests that there are
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATEMENTS = ROOT / "tests/data/statements.md"
PAGE = ROOT / "docs/conformance.md"
ID = r"(?:ATT|CI|RK|REC|TX|RX|AS|MT|ST)-\d+"

HEAD = """# Conformance

What a Linux kernel does on a socket with TLS keys (kTLS, the software path of 7.x kernels), one statement a
line; what this library does; and the tests that show it, with their result. `make conformance` runs the tests
and makes this page; do not edit it. The statements are in `tests/data/statements.md`.

`=` the same. `+` different on purpose, in favour of the program. `-` a limit. `n/a` does not apply.

The one difference in readiness: `epoll` may wake a program once for the first bytes of a record whose
length the kernel cannot know; it reads, gets `EAGAIN`, and is not woken again before the record is
complete. `tls_poll` has no such wake-up.
"""


def ids(text):
    """The statements that a comment names: `TX-7`, `TX-7 to TX-9`."""
    text = " ".join(word for word in text.split() if word not in ("*", "/*", "///", "//", "//!"))
    found = set()
    for match in re.finditer(rf"({ID})(?: to ({ID}))?", text):
        first, last = match.group(1), match.group(2) or match.group(1)
        prefix, low = first.split("-")
        high = last.split("-")[1] if last.startswith(prefix + "-") else low
        found |= {f"{prefix}-{n}" for n in range(int(low), int(high) + 1)}
    return found


def c_tests():
    for path in sorted((ROOT / "c-tests").glob("test_*.c")):
        text = path.read_text()
        pattern = r"(/\*(?:(?!\*/).)*\*/\s*)?static void (test_\w+)\(void \*\*state\)\n\{(.*?)\n\}"
        for match in re.finditer(pattern, text, re.S):
            comment, name, body = match.group(1) or "", match.group(2), match.group(3)
            inside = " ".join(re.findall(r"/\*.*?\*/", body, re.S))
            named = ids(comment) | ids(inside)
            own = re.match(r"test_([a-z]+)(\d+)_", name)
            if own:
                named |= ids(f"{own.group(1).upper()}-{own.group(2)}")
            yield path.stem, name, named


def rust_tests():
    for path in sorted((ROOT / "src").rglob("*.rs")) + sorted((ROOT / "tests").glob("*.rs")):
        comment, is_test, name, body = [], False, None, []
        for line in path.read_text().splitlines():
            word = line.strip()
            if name:
                body.append(word)
                if line == end:
                    marks = " ".join(re.findall(r"//.*|\"[^\"]*\"", "\n".join(body)))
                    yield path.relative_to(ROOT).as_posix(), name, ids(" ".join(comment)) | ids(marks)
                    comment, is_test, name, body = [], False, None, []
            elif word.startswith("///"):
                comment.append(word)
            elif word == "#[test]":
                is_test = True
            elif is_test and (match := re.match(r"fn (\w+)\(", word)):
                name, end = match.group(1), line[: len(line) - len(word)] + "}"
            elif not word.startswith("#["):
                comment, is_test = [], False


def results(logs):
    ended = {}
    for log in logs:
        for line in Path(log).read_text(errors="replace").splitlines():
            c = re.match(r"\[ +(OK|FAILED) +\] (test_\w+)$", line)
            rust = re.match(r"test (?:[\w:]+::)?(\w+) \.\.\. (ok|FAILED)$", line)
            name, good = (c.group(2), c.group(1) == "OK") if c else (None, None)
            if rust:
                name, good = rust.group(1), rust.group(2) == "ok"
            if name:
                ended[name] = ended.get(name, True) and good
    return ended


def page(tests, result_of):
    out = [HEAD]
    for line in STATEMENTS.read_text().splitlines():
        row = re.match(rf"\| ({ID}) \| (.*) \| (.*) \|$", line)
        if line.startswith("## "):
            out.append(f"\n{line}\n\n| | the kernel | uktls | tests | result |\n| --- | --- | --- | --- | --- |")
        elif row:
            key, kernel, here = row.groups()
            mine = [(file, name) for file, name, named in tests if key in named]
            shown = "; ".join(f"`{file}`: {name}" for file, name in mine)
            out.append(f"| {key} | {kernel} | {here} | {shown} | {result_of(key, [n for _, n in mine])} |")
    return "\n".join(out).replace("\n\n\n", "\n\n") + "\n"


def main():
    tests = list(c_tests()) + list(rust_tests())
    if sys.argv[1:] == ["--check"]:
        old = PAGE.read_text()
        before = dict(re.findall(rf"^\| ({ID}) \|.*\| ([^|]*) \|$", old, re.M))
        if page(tests, lambda key, _: before.get(key, "?")) != old:
            sys.exit("docs/conformance.md does not name the tests that there are: run `make conformance`")
        return
    ended = results(sys.argv[1:])

    def result_of(_, names):
        known = [ended[name] for name in names if name in ended]
        if not names:
            return ""
        if len(known) < len(names):
            return "not run"
        return "pass" if all(known) else "FAIL"

    text = page(tests, result_of)
    PAGE.write_text(text)
    print(f"docs/conformance.md: {text.count('| pass |')} pass, {text.count('| FAIL |')} fail, "
          f"{text.count('| not run |')} not run")
    sys.exit("| FAIL |" in text or "| not run |" in text)


main()
