#!/bin/sh
# Sets a fresh machine up for development. `make` calls it:
#   tools/setup.sh python   a virtual environment in .venv with exactly what uv.lock names
#   tools/setup.sh tests    all that the tests use: redis, helm, promtool, alertmanager, k6, browser, clients
#   tools/setup.sh redis    redis-server for the tests, from the system's package manager
#   tools/setup.sh wrk      wrk, the load generator of the benchmarks, from there too
#   tools/setup.sh promtool Prometheus and its promtool for the tests of queries and of remote write, unpacked into .venv
#   tools/setup.sh alertmanager  Prometheus's Alertmanager for the test of alerts, unpacked there too
#   tools/setup.sh k6       k6 for the load tests, built from source with Go and linked into .venv
#   tools/setup.sh resolution lowest-direct|highest  .venv with the lowest or the newest versions that pyproject.toml allows
#   tools/setup.sh hpa-oracle  Kubernetes' own autoscaling controller for benchmarks.advisor_hpa, built and linked as k6 is
#   tools/setup.sh actionlint  the linter of the workflows, built and linked as k6 is
#   tools/setup.sh k6-types TypeScript and the types of k6, to check its scripts with; where there is node and npm
#   tools/setup.sh openai-node  OpenAI's client for Node.js, one of the readers of tests/integration/providers; where there is node and npm
#   tools/setup.sh python-clients  the clients in Python that are tried on us, in environments of their own
#   tools/setup.sh js-clients  the clients in JavaScript, where there are npm and Node.js 20 or newer
#   tools/setup.sh agents   two coding agents' command lines, tried too; 800 MB, so `make test` asks for them in CI alone
#   tools/setup.sh browser  Chromium for the tests of the page, and the library that drives it, in .venv
#   tools/setup.sh docs     what makes the site of the documents, in .venv
#   tools/setup.sh helm     Helm for the tests of the chart, as a library in .venv; large, so only where tests are run
# Packages come from PyPI, or from the registry that UV_DEFAULT_INDEX, PIP_INDEX_URL or pip.conf names.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
stop() { say "$*"; exit 1; }

# Root where we are root; sudo where it asks nothing, or where somebody is there to answer.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        sudo "$@"
    else
        return 1
    fi
}

install_debian() {
    command -v apt-get >/dev/null || return 1
    log=$(mktemp)
    if as_root apt-get update -qq >"$log" 2>&1 &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >>"$log" 2>&1
    then
        rm -f "$log"
    else
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
}

# $1 is the program, which is Debian's name of the package too; $2 its name elsewhere.
install_program() {
    if command -v apt-get >/dev/null; then install_debian "$1"
    elif command -v dnf >/dev/null; then as_root dnf install -y -q "$2"
    elif command -v apk >/dev/null; then as_root apk add -q "$2"
    elif command -v brew >/dev/null; then brew install --quiet "$2"
    else return 1
    fi
}

setup_program() {
    command -v "$1" >/dev/null && return
    say "$3: installing $1 with the system's package manager."
    install_program "$1" "$2" || stop "Could not install $1. Install it, for example: sudo apt-get install $1"
    command -v "$1" >/dev/null || stop "$1 is installed but not on PATH ($PATH)."
}

# The system's python3 if it will do, else the newest that we test with.
find_python() {
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    stop "DUB5 needs Python 3.11 to 3.14 and found none. Install one, for example: sudo apt-get install python3"
}

has_pip() { .venv/bin/python -m pip --version >/dev/null 2>&1; }

# An environment that is there is kept, whoever made it.
make_venv() {
    [ -x .venv/bin/python ] || "$1" -m venv --clear --without-pip .venv
    .venv/bin/python -m ensurepip >/dev/null 2>&1 || .venv/bin/python tools/fetch_pip.py
}

# Debian and Ubuntu package ensurepip separately. Where it is missing pip comes from the registry, which needs no
# root; where that fails too, or python3 is cut down even more, the package is installed.
setup_venv() {
    python=$(find_python)
    make_venv "$python" >/dev/null 2>&1 && return
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    say "Python cannot make virtual environments yet: installing $package with the system's package manager."
    install_debian "$package" || stop "Could not install it. Run: sudo apt-get install $package"
    make_venv "$python"
}

# uv would trust only its own list of authorities; the system's list has those of the site as well.
trust_the_system() {
    [ -n "${SSL_CERT_FILE:-}" ] || [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="$PIP_CERT"
    [ ! -s /etc/ssl/certs/ca-certificates.crt ] || export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"
}

other_registry() {
    index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)}}
    case $index in *://pypi.org/*) ;; *) printf '%s' "$index" ;; esac
}

# uv.lock holds the addresses of PyPI. From another registry the same files are taken, known by their hashes.
install_locked() {
    index=$(other_registry)
    if [ -z "$index" ]; then
        .venv/bin/uv sync --quiet --locked
        return
    fi
    export UV_DEFAULT_INDEX="$index"
    .venv/bin/uv export --quiet --frozen --no-emit-project --output-file .venv/locked.txt
    .venv/bin/uv pip sync --quiet --require-hashes .venv/locked.txt
    .venv/bin/uv pip install --quiet --no-deps --editable .
}

setup_python() {
    unset VIRTUAL_ENV PYTHONHOME PYTHONPATH UV_PROJECT_ENVIRONMENT
    export UV_PYTHON_DOWNLOADS=never UV_PYTHON="$PWD/.venv/bin/python" PIP_DISABLE_PIP_VERSION_CHECK=1
    trust_the_system
    if ! has_pip; then
        say "Setting up .venv, once; this takes about a minute."
        setup_venv
    fi
    .venv/bin/python -m pip install --quiet --requirement tools/uv.txt
    install_locked
}

# Instead of what uv.lock names; `tools/setup.sh python` puts that back.
setup_resolution() {
    export UV_PYTHON="$PWD/.venv/bin/python"
    trust_the_system
    index=$(other_registry)
    [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    .venv/bin/uv pip compile --quiet --resolution "$1" --all-extras --group dev --output-file .venv/resolved.txt pyproject.toml
    .venv/bin/uv pip sync --quiet .venv/resolved.txt tools/uv.txt
    .venv/bin/uv pip install --quiet --no-deps --editable .
}

# $1 is a dependency group of pyproject.toml, $2 the module that is there afterwards, $3 what is said.
setup_group() {
    .venv/bin/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec(sys.argv[1]) is None)' "$2" && return
    say "$3: installing it into .venv, once."
    trust_the_system
    index=$(other_registry)
    [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    .venv/bin/uv export --quiet --frozen --only-group "$1" --output-file ".venv/$1.txt"
    UV_PYTHON="$PWD/.venv/bin/python" .venv/bin/uv pip install --quiet --require-hashes --requirement ".venv/$1.txt"
}

# Outside of the work tree and named for what is in them, as with npm below: some hundred packages for each environment.
setup_python_clients() {
    version=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')-$(cksum <tests/clients/uv.lock | cut -d ' ' -f 1)
    place=${XDG_CACHE_HOME:-$HOME/.cache}/dub5/python-clients-$version
    if [ ! -d "$place" ]; then
        say "Clients in Python are tried on us: installing them, once."
        trust_the_system
        index=$(other_registry)
        [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
        mkdir -p "${place%/*}"
        made=$(mktemp -d "$place.XXXXXX")
        for group in newest older; do
            .venv/bin/uv export --quiet --frozen --project tests/clients --only-group "$group" --output-file "$made/$group.txt" &&
                .venv/bin/uv venv --quiet --relocatable --python .venv/bin/python "$made/$group" &&
                UV_PYTHON="$made/$group/bin/python" .venv/bin/uv pip install --quiet --no-deps --require-hashes --requirement "$made/$group.txt" &&
                continue
            rm -rf "$made"
            stop "Could not install them."
        done
        mv -T "$made" "$place" || rm -rf "$made" # another work tree was first
    fi
    ln -sfn "$place" .venv/clients
}

# Debian's, or one that is there already: Playwright's own builds are in no package registry.
setup_browser() {
    setup_group browser playwright "The page's tests drive a browser by Playwright"
    command -v google-chrome >/dev/null && return
    (setup_program chromium chromium "The page's tests use a real Chromium") ||
        say "Those tests are skipped. Install Chromium or Chrome to run them."
}

# Only the programs: the packages would start them. $1 is Debian's package, the others are programs of it. Debian's
# Alertmanager does not start without the templates that it is built to read in /usr/share: these alone are copied there.
unpack() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    place=$(mktemp -d)
    package=$1 templates=usr/share/prometheus/alertmanager
    shift
    (
        cd "$place" &&
            { apt-get download -qq "$package" || { as_root apt-get update -qq && apt-get download -qq "$package"; }; } &&
            dpkg-deb --extract "$package"_*.deb . &&
            { [ ! -d "$templates" ] || [ -d "/$templates" ] || as_root cp -r --parents "$templates" /; }
    )
    done=$?
    for program; do cp "$place/usr/bin/$program" .venv/bin/ || done=1; done
    rm -rf "$place"
    return $done
}

# $1 is what they are for, $2 Debian's package, the others its programs.
setup_unpacked() {
    what=$1 package=$2 missing=
    shift 2
    for program; do command -v "$program" >/dev/null || [ -x ".venv/bin/$program" ] || missing=yes; done
    [ -n "$missing" ] || return 0
    say "$what: unpacking them into .venv, once."
    unpack "$package" "$@" >/dev/null 2>&1 || say "Could not; those tests are skipped. Install the programs to run them."
}

# There is no package of it: it is built as for the cluster, once for all work trees. $1 is the program, $2 what is said.
setup_built() {
    if found=$(command -v "$1"); then
        [ "$found" -ef ".venv/bin/$1" ] || ln -sf "$found" ".venv/bin/$1"
        return
    fi
    if command -v go >/dev/null && tools/cluster/cluster build "$1" >&2; then
        ln -sf "$(.venv/bin/python -c 'import sys; from tools.cluster.programs import program; print(program(sys.argv[1]))' "$1")" ".venv/bin/$1"
    else
        say "Could not build $1, which takes Go 1.26 or newer; $2"
    fi
}

# Packages of npm, outside of the work tree and named for what is in them: made once for all work trees, and anew when a
# version changes. $1 is the folder of package.json and its lock, $2 the name in .venv, $3 and $4 what is said.
setup_npm() {
    command -v node >/dev/null && command -v npm >/dev/null || return 0
    version=$(cat "$1/package-lock.json" | cksum | cut -d ' ' -f 1)
    place=${XDG_CACHE_HOME:-$HOME/.cache}/dub5/$2-$version
    if [ ! -d "$place" ]; then
        say "$3: installing it with npm, once."
        mkdir -p "${place%/*}"
        made=$(mktemp -d "$place.XXXXXX")
        cp "$1/package.json" "$1/package-lock.json" "$made"
        if npm --prefix "$made" ci --silent --ignore-scripts --no-audit --no-fund >&2; then
            mv -T "$made" "$place" || rm -rf "$made" # another work tree was first
        else
            rm -rf "$made"
            say "Could not; $4"
            return 0
        fi
    fi
    ln -sfn "$place" ".venv/$2"
}

old_node() { command -v node >/dev/null && node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 0 : 1)'; }

case ${1:-} in
    python) setup_python ;;
    redis) setup_program redis-server redis "The tests use a real Redis" ;;
    tests) for each in redis helm promtool alertmanager k6 k6-types browser python-clients js-clients; do tools/setup.sh "$each"; done ;;
    wrk) setup_program wrk wrk "The benchmarks load servers with wrk" ;;
    browser) setup_browser ;;
    docs) setup_group docs sphinx "The documents become a site" ;;
    helm) setup_group chart helm_python "The chart's tests use a real Helm" ;;
    promtool) setup_unpacked "The tests ask Prometheus and its promtool what queries mean" prometheus promtool prometheus ;;
    alertmanager) setup_unpacked "The test of alerts uses a real Alertmanager" prometheus-alertmanager prometheus-alertmanager ;;
    resolution) setup_resolution "${2:?lowest-direct or highest}" ;;
    k6) setup_built k6 "the tests of the load test are skipped. Install k6 to run them." ;;
    hpa-oracle) setup_built hpa-oracle "the advisor's decisions cannot be compared." ;;
    actionlint) setup_built actionlint "the workflows are not checked." ;;
    python-clients) setup_python_clients ;;
    k6-types) setup_npm tools/k6-types k6-types "k6's scripts are checked with TypeScript" "that check is left out." ;;
    js-clients) old_node || setup_npm tests/clients/js js-clients "Clients in JavaScript are tried on us" "those tests are skipped." ;;
    agents) old_node || setup_npm tests/clients/agents agents "Coding agents are tried on us" "those tests are skipped." ;;
    openai-node) setup_npm tests/providers/node openai-node "Answers are read with openai-node" "that reader is left out." ;;
    *) stop "usage: tools/setup.sh python|resolution|redis|wrk|browser|docs|helm|promtool|alertmanager|k6|hpa-oracle|actionlint|k6-types|openai-node|python-clients|js-clients|agents" ;;
esac
