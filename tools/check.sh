#!/bin/sh
# Runs each check to its end, says which failed and why, and fails if any did. `make check` calls it.
set -u
cd "$(dirname "$0")/.."
bin=${1:-.venv/bin}
status=0

check() {
    name=$1
    shift
    if output=$("$@" 2>&1); then
        printf '%-18s ok\n' "$name"
    else
        printf '%-18s FAILED\n%s\n' "$name" "$output"
        status=1
    fi
}

check format "$bin/ruff" format --check .
check lint "$bin/ruff" check .
check types "$bin/mypy"
check "types of tests" "$bin/mypy" --explicit-package-bases tests tools benchmarks
check imports "$bin/lint-imports" --no-cache
check "generated files" "$bin/python" -m tools.generate --check
exit $status
