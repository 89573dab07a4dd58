#!/usr/bin/env bash
# include/uktls.h stands alone, as C99 and as C++17, in gcc and in clang, without a warning.
# Environment: PREFIX, the installed library.
set -euo pipefail
cd "$(dirname "$0")"

for compiler in gcc clang; do
    for language in "c -std=c99" "c++ -std=c++17"; do
        echo "header: $compiler -x $language"
        # shellcheck disable=SC2086 # two words on purpose
        "$compiler" -x $language -I"$PREFIX/include" -Wall -Wextra -pedantic -Werror -fsyntax-only include.c
    done
done
