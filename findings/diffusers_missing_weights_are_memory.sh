#!/usr/bin/env bash
# Diffusers 0.42.1: a weight that a checkpoint lacks is "newly initialized", says from_pretrained; it is uninitialised memory.
#
# Expected (the warning: "Some weights of AutoencoderKL were not initialized from the model checkpoint [...] and are newly
# initialized"; transformers, which the sentence is from, does initialise them): the module's own random initialisation.
# What happens: initialisation is switched off while the model is made (with low_cpu_mem_usage=False, the default without
# accelerate), and nothing fills the missing weight afterwards. It holds what the memory held: numbers that the same process
# had used before, or up to 1e38, and others in the next load. PyTorch can show it: with deterministic algorithms it fills new
# memory with NaN.
#
# Output seen:
#   as constructed: 0 of 216 NaN
#   loaded, file complete: 0 of 216 NaN
#   loaded, file without decoder.conv_out.weight: 216 of 216 NaN, bias 0 of 3 NaN, reported as missing: True
#
# What helps: output_loading_info=True and an error when "missing_keys" is not empty. Here: every from_pretrained is strict,
# and weights that are not finite floats are refused (CheckpointError).
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
    "diffusers==0.42.1" "torch==2.11.0" "safetensors==0.8.0" "transformers==5.5.4" "numpy==2.2.6"
HF_HUB_OFFLINE=1 MODEL=$folder/vae "$folder/venv/bin/python" - <<'PYTHON'
import os
from importlib.metadata import version
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

print("diffusers", version("diffusers"), "torch", version("torch"))
torch.use_deterministic_algorithms(True)  # and so torch.utils.deterministic.fill_uninitialized_memory counts
folder, name = Path(os.environ["MODEL"]), "decoder.conv_out.weight"


def missing(model, name=name):
    weight = model.state_dict()[name]
    return f"{int(weight.isnan().sum())} of {weight.numel()} NaN"


made = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
made.save_pretrained(folder)
complete = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
file = next(folder.glob("*.safetensors"))
weights = load_file(file)
del weights[name]
save_file(weights, file)
loaded, report = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False, output_loading_info=True)
seen = missing(made), missing(complete), missing(loaded), missing(loaded, "decoder.conv_out.bias")
print("as constructed:", seen[0])
print("loaded, file complete:", seen[1])
print(f"loaded, file without {name}: {seen[2]}, bias {seen[3]}, reported as missing: {report['missing_keys'] == [name]}")
holds = seen == ("0 of 216 NaN", "0 of 216 NaN", "216 of 216 NaN", "0 of 3 NaN") and report["missing_keys"] == [name]
print("as described" if holds else "CHANGED")
raise SystemExit(not holds)
PYTHON
