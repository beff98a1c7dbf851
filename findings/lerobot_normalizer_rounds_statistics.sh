#!/usr/bin/env bash
# LeRobot 0.6.1: NormalizerProcessorStep rounds the statistics of a dataset to integers when the value to normalise is an integer.
#
# Expected (its docstring: MEAN_STD is "zero mean, unit variance", MIN_MAX "[-1, 1]"): the same result for 1 and for 1.0. A
# feature of dtype "int64" (a gripper that is open or closed, servo ticks) is valid in a dataset, has real-valued mean and std
# in meta/stats.json, and is read as an int64 tensor.
# What happens: statistics are cast to the dtype of the value, also when that is int64. A mean of 0.4 becomes 0, a std of 0.49
# becomes 0, and the value is divided by eps: 1e8 in the place of 1.22. With larger numbers (ticks) the error is small enough
# to train with. Undoing it is wrong as well, so that the round trip does not give the value back. Nothing is said.
#
# Output seen:
#   float32: [1.2245, 0.9764]
#   int64: [100000000.0, 1.0833]
#
# What helps: declare such features as float32, or cast before the step. Here: states and actions are float32 everywhere
# (rise_env/data), also where a dataset holds integers, and normalisation is our own.
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
    "lerobot==0.6.1" "torch==2.11.0" "numpy==2.2.6"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.processor import NormalizerProcessorStep
from lerobot.processor.converters import create_transition

print("lerobot", version("lerobot"))
KEY = "observation.state"
settings = {
    "features": {KEY: PolicyFeature(FeatureType.STATE, (2,))},
    "norm_map": {FeatureType.STATE: NormalizationMode.MEAN_STD},
    "stats": {KEY: {"mean": np.array([0.4, 2047.6]), "std": np.array([0.49, 12.7])}},
}


def normalised(value):
    step = NormalizerProcessorStep(**settings)
    result = step(create_transition(observation={KEY: value}))["observation"][KEY]
    return [round(number, 4) for number in result.tolist()]


exact = normalised(torch.tensor([1.0, 2060.0]))
rounded = normalised(torch.tensor([1, 2060]))
print("float32:", exact)
print("int64:", rounded)
holds = exact == [1.2245, 0.9764] and rounded == [1e8, 1.0833]
print("as described" if holds else "CHANGED")
raise SystemExit(not holds)
PYTHON
