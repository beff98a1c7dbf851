# shellcheck shell=bash
# Shared by the scripts beside it; to be sourced. Sets `root` and moves there.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root" || exit 1

say() { printf '[setup] %s\n' "$*" >&2; }

fail() {
    printf '[setup] error: %s\n' "$*" >&2
    exit 1
}

# as_root COMMAND...: run it as root, without ever asking for a password.
as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

# apt_install REASON PACKAGE...: install Debian packages, or say what to run.
apt_install() {
    local reason=$1
    shift
    if ! command -v apt-get >/dev/null; then
        fail "$reason. Install what Debian calls: $*. Then run the same make command again."
    fi
    if ! as_root true 2>/dev/null; then
        fail "$reason. Run this once, then the same make command again:
    sudo apt-get update && sudo apt-get install -y $*"
    fi
    say "$reason: installing $*"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    as_root "${apt[@]}" update >/dev/null || say "apt-get update failed; going on with the package lists at hand"
    as_root "${apt[@]}" install -y --no-install-recommends "$@" >/dev/null </dev/null ||
        fail "$reason, and apt-get install $* failed (its message is above)"
}

# runs COMMAND...: whether it works. A pyenv shim may be on PATH and yet refuse to run.
runs() { "$@" >/dev/null 2>&1 </dev/null; }

# find_uv: set `uv` to a uv that works; without one, install it in a private environment.
find_uv() {
    local bootstrap=.cache/bootstrap candidate python=
    for uv in uv "${HOME:-}/.local/bin/uv" "${HOME:-}/.cargo/bin/uv" "$root/$bootstrap/bin/uv"; do
        if runs "$uv" --version; then return; fi
    done
    for candidate in python3 python3.12 /usr/bin/python3; do
        if runs "$candidate" -c 'import ensurepip, venv'; then
            python=$candidate
            break
        fi
    done
    if [[ -z $python ]]; then
        apt_install "uv is missing, and Python cannot make an environment to install it in" python3 python3-venv
        python=/usr/bin/python3
    fi
    say "installing uv in $bootstrap"
    rm -rf "$bootstrap"
    "$python" -m venv "$bootstrap" || fail "$python -m venv $bootstrap failed (its message is above)"
    "$bootstrap/bin/python" -m pip install --quiet --disable-pip-version-check uv ||
        fail "pip could not install uv (its message is above). Install uv by hand and run the same make command again."
    uv=$root/$bootstrap/bin/uv
}
