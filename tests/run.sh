#!/usr/bin/env bash
# Makes the environment, installs the real peers that the tests talk to, and runs every gate and test.
#   bash tests/run.sh               everything
#   bash tests/run.sh -k ledger     only the tests, with these options of pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. deploy/environment.sh

# program to look for: Debian package that has it
peers=(Orthanc:orthanc storescp:dcmtk redis-server:redis-server initdb:postgresql chromium:chromium strace:strace)
missing=()
for peer in "${peers[@]}"; do
    PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "${peer%%:*}" >/dev/null 2>&1 && continue
    [ "${peer%%:*}" = initdb ] && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && continue
    missing+=("${peer##*:}")
done
if [ "${#missing[@]}" -gt 0 ]; then
    apt_install "${missing[@]}" ||
        say "tests that need them are skipped, or fail when CI=true: ${missing[*]}"
fi

make_environment "[test]"
# The environment's tools first, but DCMTK's programs keep their names: pynetdicom brings some of the same.
bin="$PWD/.venv/bin"
if [ "$#" -gt 0 ]; then
    exec "$bin/pytest" "$@"
fi
"$bin/mypy" &
types=$!
trap 'kill "$types" 2>/dev/null || true' EXIT
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/lint-imports"
wait "$types"
trap - EXIT
# Two at a time: much of the time is spent waiting for quiet times, leases and peers. In the order of pyproject.toml, the
# longest files first; sorted by numbers of tests, the few long ones would be left to one process at the end.
exec "$bin/pytest" -n 2 --dist loadfile --no-loadscope-reorder
