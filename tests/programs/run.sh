#!/usr/bin/env bash
# Real programs under the preload library.
# Usage: tests/programs/run.sh NAME...: tests/programs/NAME.sh, one after the other
# Environment: PREFIX, the installed library.
set -uo pipefail
here=$(dirname "$0")
failed=()
for name in "$@"; do
    "$here/$name.sh" || failed+=("$name")
done
[ ${#failed[@]} -eq 0 ] || { echo "programs: failed: ${failed[*]}" >&2; exit 1; }
echo 'programs: all in order'
