#!/bin/sh
# `make test` over and over as a slower machine would run it: all of it must pass, for no verdict may depend on speed.
#   tools/slow.sh one 3     three times on one core
#   tools/slow.sh busy 3    three times beside two processes that want the cores for themselves; needs stress-ng
# One test of what fails: tools/slow.sh busy 20 TESTS=tests/integration/cache/test_flights.py
set -eu
cd "$(dirname "$0")/.."
how=$1 times=$2
shift 2
case $how in
    one) run="taskset --cpu-list 0" ;;
    busy)
        run=
        stress-ng --cpu 2 --quiet &
        trap "kill $!" EXIT
        ;;
    *) exit 2 ;;
esac
for round in $(seq "$times"); do
    echo "== $how, $round of $times: $(date +%T)"
    $run make --no-print-directory test "$@"
done
