#!/usr/bin/env bash
# MuJoCo 4.0.0: a joint that is added inside the tree of an MjSpec moves the numbers of its keyframes to other joints.
#
# Expected: programming/modeledit and the changelog ("Keyframes of an mjSpec now keep their place and their values when its
# kinematic tree changes (mjs_delete, mjs_attach)", "a vector which is shorter than the model is completed with the default
# configuration") speak of values that stay with their joints. mj_recompile does keep qpos with its joints in the same edit,
# and deleting a body keeps the keyframe's values with theirs.
# What happens: add_body and add_joint do not touch keyframes. Joints are numbered depth first, so a finger that is added to
# the first arm gets the second arm's value of the keyframe, and the second arm gets the default. No error, no warning: "home"
# is another pose.
#
# Output seen:
#   written: {'left': 0.1, 'right': 0.2}
#   finger added to the left arm, keyframe: {'left': 0.1, 'finger': 0.2, 'right': 0.0}
#   the same edit, qpos kept by recompile: {'left': 0.1, 'finger': 0.0, 'right': 0.2}
#   left arm deleted, keyframe: {'right': 0.2}
#
# What helps: add first and write the keyframe afterwards by joint names (mj_resetData, data.joint(name).qpos, add_key), or
# attach the part as a model of its own. Here: nothing is built by editing an MjSpec.
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

print("mujoco", mujoco.__version__)
XML = """
<mujoco>
  <worldbody>
    <body name="left_arm"><joint name="left"/><geom size=".1"/></body>
    <body name="right_arm" pos="1 0 0"><joint name="right"/><geom size=".1"/></body>
  </worldbody>
  <keyframe><key name="home" qpos="0.1 0.2"/></keyframe>
</mujoco>
"""


def by_joint(model, qpos):
    return {model.joint(i).name: round(float(qpos[model.joint(i).qposadr[0]]), 3) for i in range(model.njnt)}


def add_finger(spec):
    finger = spec.body("left_arm").add_body(name="finger_link", pos=[0, 0, 0.2])
    finger.add_joint(name="finger")
    finger.add_geom(size=[0.05, 0, 0])


spec = mujoco.MjSpec.from_string(XML)
model = spec.compile()
written = by_joint(model, model.key("home").qpos)
print("written:", written)

data = mujoco.MjData(model)
mujoco.mj_resetDataKeyframe(model, data, 0)
add_finger(spec)
model, data = spec.recompile(model, data)
added, kept = by_joint(model, model.key("home").qpos), by_joint(model, data.qpos)
print("finger added to the left arm, keyframe:", added)
print("the same edit, qpos kept by recompile:", kept)

spec = mujoco.MjSpec.from_string(XML)
spec.delete(spec.body("left_arm"))
model = spec.compile()
deleted = by_joint(model, model.key("home").qpos)
print("left arm deleted, keyframe:", deleted)

holds = (
    written == {"left": 0.1, "right": 0.2}
    and added == {"left": 0.1, "finger": 0.2, "right": 0.0}
    and kept == {"left": 0.1, "finger": 0.0, "right": 0.2}
    and deleted == {"right": 0.2}
)
print("as described" if holds else "CHANGED")
raise SystemExit(not holds)
PYTHON
