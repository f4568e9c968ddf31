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
check "types of tests" "$bin/mypy" --explicit-package-bases testkit tests tools benchmarks
check imports "$bin/lint-imports" --no-cache
if [ -x "$bin/../k6-types/node_modules/.bin/tsc" ]; then
    check "scripts, k6 2" "$bin/../k6-types/node_modules/.bin/tsc" --project tools/k6-types/tsconfig.json
    check "scripts, k6 1" "$bin/../k6-types/node_modules/.bin/tsc" --project tools/k6-types/tsconfig.1.json
else
    printf '%-18s left out: needs node, npm and a registry, see CONTRIBUTING.md\n' "scripts of k6"
fi
# Without shellcheck and pyflakes, which it would call where they happen to be there.
if [ -x "$bin/actionlint" ]; then
    check workflows "$bin/actionlint" -shellcheck= -pyflakes=
else
    printf '%-18s left out: needs Go 1.26 and its proxy, see CONTRIBUTING.md\n' workflows
fi
check "generated files" "$bin/python" -m tools.generate --check
exit $status
