#!/usr/bin/env bash
# Prepare this checkout: .venv with the locked packages, and system libraries for off-screen rendering.
# Usage: scripts/setup.sh [STAMP]
# STAMP (a file in .venv) is written last, so that an interrupted run never counts as done.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

stamp=${1:-}
started=$SECONDS

mkdir -p .cache
if command -v flock >/dev/null; then
    exec 9>.cache/setup.lock
    if ! flock -n 9; then
        say "another setup of this checkout is running; waiting for it"
        flock 9
    fi
    if [[ -n $stamp && -e $stamp && -x .venv/bin/python ]]; then exit 0; fi
fi
rm -f .venv/.stamp-*

# find_python: set `python` to an interpreter of the right version; else to the version, for uv to find or download.
find_python() {
    local candidate
    local code='import sys; sys.version_info[:2] == (3, 12) or sys.exit(1); print(sys.executable)'
    for candidate in python3.12 "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.12*/bin/python3.12 \
        /usr/local/bin/python3.12 /usr/bin/python3.12; do
        if python=$("$candidate" -c "$code" 2>/dev/null); then return; fi
    done
    python=3.12
}

# venv_is_sound: whether .venv has the right interpreter and was made at this place.
venv_is_sound() {
    runs .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' &&
        grep -qsF "$root/.venv" .venv/bin/activate
}

# renders: whether MuJoCo can draw without a screen.
renders() {
    MUJOCO_GL=${MUJOCO_GL:-egl} timeout 120 .venv/bin/python - >.cache/rendering.log 2>&1 <<'PYTHON'
import mujoco

model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom type='sphere' size='.5' rgba='1 0 0 1'/></worldbody></mujoco>"
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any(), "the rendered image is black"
PYTHON
}

find_uv
quiet=(--quiet)
if [[ -t 2 ]]; then quiet=(); fi # a person wants to see several GB arrive

if ! venv_is_sound; then
    find_python
    say "making .venv with Python $python"
    size_hint=": about 6 GB, mostly torch with CUDA"
    rm -rf .venv
    "$uv" venv --quiet --python "$python" .venv ||
        fail "no Python 3.12. Install it (apt-get install python3.12, or: pyenv install 3.12, or: uv python install 3.12)
    and run the same make command again."
fi

say "installing $(grep -c '^[a-z]' requirements.lock) locked packages${size_hint:-}"
"$uv" pip install "${quiet[@]}" --python .venv/bin/python -r requirements.lock
"$uv" pip install "${quiet[@]}" --python .venv/bin/python --no-deps --reinstall-package rise-robotics -e .

if [[ $(uname -s) == Linux ]] && ! renders; then
    apt_install "off-screen rendering needs system libraries" libegl1 libgl1 libegl-mesa0 libgl1-mesa-dri
    renders || fail "off-screen rendering still fails after installing its libraries:
$(tail -n 5 .cache/rendering.log)"
fi

if [[ -n $stamp ]]; then touch "$stamp"; fi
say "done after $((SECONDS - started)) s"
