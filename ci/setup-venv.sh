#!/bin/sh
# Makes .venv in the checkout and installs Everlong into it, editable, with one extra:
#
#     ci/setup-venv.sh [samples | test | dev]
#
# Needs Python 3.11 or newer and a way to install: uv, or pip with venv. Where one of them is missing
# it says what to install. PYTHON=/path/to/python chooses the interpreter. Running it again is safe.
set -eu
cd "$(dirname "$0")/.."
extra=${1:-dev}

say() { printf '%s\n' "$*" >&2; }

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

has_modules() { python=$1; shift; for module; do "$python" -c "import $module" >/dev/null 2>&1 || return 1; done; }

# 3.11 first, since it is the version the tests run on.
find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3 python}; do
        if recent "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    asked=${PYTHON:-python3}
    say "Everlong needs Python 3.11 or newer, and '$asked' is $("$asked" --version 2>/dev/null || echo "not there")."
    say "Install one (Debian 12, Ubuntu 24.04: apt install python3 python3-venv; anywhere: https://docs.astral.sh/uv/),"
    say "or name one: make setup PYTHON=/path/to/python3.11"
    exit 1
}

make_venv() {
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --allow-existing --python "${PYTHON:->=3.11}" .venv
        return
    fi
    python=$(find_python)
    if has_modules "$python" venv ensurepip; then
        "$python" -m venv .venv
    elif has_modules "$python" venv pip; then
        "$python" -m venv --without-pip .venv # Debian without python3-venv: the pip outside fills it
    else
        say "$python has neither 'venv' with 'ensurepip' nor 'pip', so no virtual environment can be made."
        say "Debian, Ubuntu: apt install python3-venv     anywhere: install uv, https://docs.astral.sh/uv/"
        exit 1
    fi
}

install() {
    if [ -x .venv/bin/pip ]; then
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$extra]"
    elif command -v uv >/dev/null 2>&1; then
        uv pip install --quiet --python .venv/bin/python -e ".[$extra]"
    else
        "$(find_python)" -m pip --python .venv/bin/python install --quiet --disable-pip-version-check -e ".[$extra]"
    fi
}

if ! recent .venv/bin/python; then
    if [ -x .venv/bin/python ]; then
        say "The .venv here has $(.venv/bin/python --version 2>&1), and Everlong needs Python 3.11 or newer: run 'make clean' first."
        exit 1
    fi
    say "Making .venv (once) …"
    make_venv
fi
say "Installing Everlong with its '$extra' extra into .venv …"
install
