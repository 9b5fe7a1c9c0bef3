#!/usr/bin/env bash
# Make .venv with the project and its development tools, unless pyproject.toml is unchanged.
set -euo pipefail
cd "$(dirname "$0")/.."

# Each process would compile the sources anew where the environment forbids it to keep the result.
compile_sources() {
    .venv/bin/python -m compileall -q overlay lab sims tests benchmarks || true
}

stamp=.venv/installed-for
wanted="$PWD $(sha256sum <pyproject.toml)"
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    compile_sources
    exit 0
fi

fail() {
    echo "setup: $1" >&2
    exit 1
}

as_root_or_sudo() {
    if [ "$(id -u)" = 0 ]; then echo "$1"; else echo "sudo $1"; fi
}

find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is missing; type: $(as_root_or_sudo "apt-get install python3 python3-venv")"
}

can_make_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

python="$(find_python)"
if ! can_make_venv "$python"; then
    # Debian ships ensurepip apart, for each version of Python.
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    package="python$version-venv"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        scripts/install-packages.sh "$package"
    fi
    can_make_venv "$python" ||
        fail "the package $package is missing; type: $(as_root_or_sudo "apt-get install $package")"
fi

echo "setup: installing the Python packages into .venv" >&2
# Begin anew if the interpreter is gone, or if the checkout was copied or moved: then the
# environment's scripts name the old place.
if .venv/bin/python -c '' 2>/dev/null && head -n 1 .venv/bin/pip | grep -qF "#!$PWD/.venv/"; then
    "$python" -m venv .venv
else
    "$python" -m venv --clear .venv
fi
.venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[dev]' ||
    fail "the Python packages could not be installed; the message above says why. Then type make setup again."
printf '%s\n' "$wanted" >"$stamp"
compile_sources
