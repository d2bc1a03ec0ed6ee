# Sourced by deploy/demo.sh and tests/run.sh: makes .venv with pinned versions, again only when they changed.
# Needs: Debian or Ubuntu (others: Python 3.11 or newer with venv). Sets PYTHON to the environment's interpreter.

say() { printf '%s\n' "$*" >&2; }

# Runs apt-get as root; without root it says what is missing and returns 1.
apt_install() {
    if [ "$(id -u)" -ne 0 ]; then
        say "missing: $*. Install with: sudo apt-get install $*"
        return 1
    fi
    if [ -z "${APT_UPDATED:-}" ]; then
        apt-get update -qq >&2 || say "apt-get update failed; going on with the old lists"
        APT_UPDATED=1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# First Python 3.11 or newer on the path.
find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return 0
        fi
    done
    say "no Python 3.11 or newer found. Install python3 (Debian 12, Ubuntu 24.04 or newer have it)."
    return 1
}

# make_environment EXTRAS: EXTRAS is "" or "[test]".
make_environment() {
    local extras="$1" base stamp wanted
    PYTHON="$PWD/.venv/bin/python"
    stamp=".venv/.installed$extras"
    wanted="$(cat pyproject.toml deploy/constraints.txt | sha256sum) $PWD"
    if [ -x "$PYTHON" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    base="$(find_python)" || return 1
    if ! "$base" -c 'import ensurepip' 2>/dev/null; then
        apt_install "$("$base" -c 'import sys; print(f"python3.{sys.version_info.minor}-venv")')" || return 1
    fi
    say "making the environment in .venv (a few minutes the first time) …"
    [ -x "$PYTHON" ] || "$base" -m venv .venv || return 1
    # torch first, alone and pinned: asked for by another package, pip might take a build of several GB.
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' deploy/constraints.txt)" || return 1
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e ".$extras" || return 1
    printf '%s' "$wanted" >"$stamp"
}
