#!/bin/sh
# Debian packages without which the pinned wheels cannot work, and with the argument `tests` those that the tests
# need. Touches nothing when all are there.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
PY="${PY:-python3}"

command -v "$PY" >/dev/null 2>&1 || { echo "no $PY found: install Python 3.11 or newer, or say: make PY=/path/to/python env" >&2; exit 1; }
"$PY" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$PY is older than 3.11: say make PY=python3.11 env" >&2; exit 1; }

missing=""
command -v git >/dev/null 2>&1 || missing="$missing git"
"$PY" -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3-venv"
if [ "$(uname -s)" = Linux ]; then
    # LightGBM's wheel leaves the OpenMP library to the system.
    ldconfig -p | grep -q 'libgomp\.so\.1 ' || missing="$missing libgomp1"
fi
if [ "$(uname -s)" = Linux ] && [ "${1:-}" = tests ]; then
    # A real PostgreSQL, faults at chosen system calls, a file system to cut the power of, two hosts.
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 || missing="$missing postgresql"
    command -v strace >/dev/null 2>&1 || missing="$missing strace"
    command -v mkfs.ext4 >/dev/null 2>&1 || missing="$missing e2fsprogs"
    command -v losetup >/dev/null 2>&1 && command -v runuser >/dev/null 2>&1 || missing="$missing mount util-linux"
    command -v ip >/dev/null 2>&1 || missing="$missing iproute2"
    # The load generator of the benches.
    command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing
else
    echo "missing on this machine:$missing; install them, on Debian with: sudo apt-get install$missing" >&2
    exit 1
fi
