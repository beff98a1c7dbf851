#!/usr/bin/env bash
# MuJoCo 4.0.0: one plastic spring in the model, and mjd_transitionFD returns matrices that are no derivatives, and changes
# time and positions of the simulation that it was asked about.
#
# Expected (API reference): A and B are the Jacobians of mj_step. RK4, sleeping and delays are named as not supported, and
# RK4 is refused with an error; plastic springs (`springyield`, new in 4.0.0) are neither named nor refused. mjData is
# afterwards as it was before, which holds in models without plastic springs.
# What happens: the plastic state takes the place of positions. The first nplastic rows of A and B, which belong to the joints
# that come first in the model and not to the plastic ones, are differences between plastic state and positions, divided by
# eps: about the same number in all columns. mjData comes back with the plastic state in `time` and, from its start on, in
# `qpos`; the other rows are taken at that pose. Nothing is said, and the simulation goes on from there. Likewise with plastic
# tendons, and with elastic rods (flexcomp, dim 1), which keep their frames in the plastic state.
#
# Output seen (an arm, and beside it a box whose flap and tab are creases; they do not touch):
#   elastic creases, centred: largest error by row [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
#     d(shoulder)/d(shoulder, elbow, flap, tab) [1.0, 0.0, 0.0, 0.0] is [1.0, 0.0, 0.0, 0.0]
#     time 0.1000 -> 0.1000, shoulder 0.1451 -> 0.1451
#   plastic creases, centred: largest error by row [65539.73, 1855.86, 0.0, 0.0, 0.01, 0.04, 0.0, 0.0]
#     d(shoulder)/d(shoulder, elbow, flap, tab) [65539.26, 65538.76, 65538.26, 65538.76] is [1.0, 0.0, 0.0, 0.0]
#     time 0.1000 -> 0.1376, shoulder 0.1451 -> 0.0065
#   plastic creases, forward: largest error by row [131079.47, 3711.72, 0.0, 0.0, 974.4, 631.21, 0.0, 0.0]
#     d(shoulder)/d(shoulder, elbow, flap, tab) [-131076.52, -131077.52, -131078.51, -131077.52] is [1.0, 0.0, 0.0, 0.0]
#     time 0.1000 -> 0.1376, shoulder 0.1451 -> 0.0065
#
# What helps: differences of mj_step on another MjData that is given the state (mjSTATE_INTEGRATION), as below. Here: the
# creases of box closing are plastic (docs/cell.md), and nothing is linearised.
#
# Installs public packages in a temporary folder. Ends with 0 while the behaviour is as described, with 1 when it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/uv"
"$folder/uv/bin/python" -m pip install --quiet --disable-pip-version-check uv
uv=$folder/uv/bin/uv
"$uv" venv --quiet --python 3.12 "$folder/venv"
"$uv" pip install --quiet --python "$folder/venv/bin/python" \
    "mujoco==4.0.0" "numpy==2.2.6"
"$folder/venv/bin/python" - <<'PYTHON'
import mujoco
import numpy as np

print("mujoco", mujoco.__version__)
EPS, INPUTS, PLASTIC = 1e-6, mujoco.mjtState.mjSTATE_INTEGRATION, 'springyield=".005"'
XML = """
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.002" integrator="implicitfast"/>
  <default>
    <geom type="capsule" size=".01" fromto="0 0 0 .2 0 0" contype="0" conaffinity="0"/>
    <joint axis="0 1 0" damping=".05"/>
    <default class="crease"><joint stiffness="1" SPRINGYIELD/></default>
  </default>
  <worldbody>
    <body>
      <joint name="shoulder"/><geom/>
      <body pos=".2 0 0"><joint name="elbow"/><geom/></body>
    </body>
    <body pos="0 1 0">
      <joint name="flap" class="crease"/><geom/>
      <body pos=".2 0 0"><joint name="tab" class="crease"/><geom/></body>
    </body>
  </worldbody>
  <actuator><motor joint="shoulder"/></actuator>
</mujoco>
"""


def inputs(model, data):
    values = np.empty(mujoco.mj_stateSize(model, INPUTS))
    mujoco.mj_getState(model, data, values, INPUTS)
    return values


def stepped(model, data, field, index, change):
    """Positions and velocities after a step from a copy in which one number is changed."""
    other = mujoco.MjData(model)
    mujoco.mj_setState(model, other, inputs(model, data), INPUTS)
    getattr(other, field)[index] += change
    mujoco.mj_step(model, other)
    return np.concatenate([other.qpos, other.qvel])


def differences(model, data, field):
    changes = [(index, change) for index in range(len(getattr(data, field))) for change in (EPS, -EPS)]
    results = np.array([stepped(model, data, field, *change) for change in changes])
    return ((results[::2] - results[1::2]) / (2 * EPS)).T


def examine(name, springyield, centred):
    model = mujoco.MjModel.from_xml_string(XML.replace("SPRINGYIELD", springyield))
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, 50)
    right = np.hstack([differences(model, data, field) for field in ("qpos", "qvel", "ctrl")])
    before, time, shoulder = inputs(model, data), data.time, data.qpos[0]
    a, b = np.zeros((8, 8)), np.zeros((8, 1))
    mujoco.mjd_transitionFD(model, data, EPS, centred, a, b, None, None)
    seen = np.hstack([a, b])
    error = np.abs(seen - right).max(axis=1)
    columns = "d(shoulder)/d(shoulder, elbow, flap, tab)"
    print(f"{name}: largest error by row {error.round(2).tolist()}")
    print(f"  {columns} {seen[0, :4].round(2).tolist()} is {right[0, :4].round(2).tolist()}")
    print(f"  time {time:.4f} -> {data.time:.4f}, shoulder {shoulder:.4f} -> {data.qpos[0]:.4f}")
    if not springyield:
        return error.max() < 1e-3 and np.array_equal(before, inputs(model, data))
    return error[:2].min() > 100 and [data.time, data.qpos[0]] == data.plastic.tolist() != [time, shoulder]


holds = (
    examine("elastic creases, centred", "", True)
    and examine("plastic creases, centred", PLASTIC, True)
    and examine("plastic creases, forward", PLASTIC, False)
)
print("as described" if holds else "CHANGED")
raise SystemExit(not holds)
PYTHON
