#!/usr/bin/env bash
# LeRobot 0.6.1: deleting episodes or splitting a dataset drops every column of meta/episodes and every key of meta/info.json
# that LeRobot does not know, and all further files; merging keeps the columns and drops the rest. Nothing is said.
#
# Expected: `lerobot-edit-dataset` ("delete specific episodes", "split a dataset") leaves what it keeps as it was. LeRobot
# itself reads and hands out such columns: `dataset.meta.episodes["episode_success"]` works.
# What happens: see below. Outcomes of episodes, operators, calibrations and labels are gone from the copy, and since the
# episodes are renumbered, a file that is copied by hand afterwards belongs to other episodes.
#
# Output seen (is it in the result?):
#   delete_episodes: column of meta/episodes False, key of meta/info.json False, file in meta False, README.md False
#   split_dataset: column of meta/episodes False, key of meta/info.json False, file in meta False, README.md False
#   merge_datasets: column of meta/episodes True, key of meta/info.json False, file in meta False, README.md False
#
# What helps: hold what belongs to a frame in a feature of the dataset, which the tools carry along, even if it is the same in
# the whole episode. Here: outcomes and corrections are features too, and our own table is made again from them, with a
# warning that says what is lost (docs/recording.md, "Edited with lerobot's tools").
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
    "lerobot[dataset]==0.6.1" "torch==2.11.0" "numpy==2.2.6"
HF_HUB_OFFLINE=1 DATASETS=$folder/datasets "$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON' || { tail -n 5 "$folder/log"; exit 1; }
import json
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.dataset_tools import delete_episodes, merge_datasets, split_dataset
from lerobot.datasets.lerobot_dataset import LeRobotDataset

print("lerobot", version("lerobot"))
folder = Path(os.environ["DATASETS"])
feature = {"dtype": "float32", "shape": (2,), "names": ["left", "right"]}
source = folder / "source"
dataset = LeRobotDataset.create(
    "you/source", 10, {"observation.state": feature, "action": feature}, root=source, use_videos=False
)
for episode in range(3):
    for _ in range(4):
        pose = np.full(2, episode, np.float32)
        dataset.add_frame({"observation.state": pose, "action": pose, "task": "sort"})
    dataset.save_episode()
dataset.finalize()

episodes = next((source / "meta/episodes").rglob("*.parquet"))
table = pq.read_table(episodes)
pq.write_table(table.append_column("episode_success", pa.array([True, False, True])), episodes)
info = json.loads((source / "meta/info.json").read_text())
(source / "meta/info.json").write_text(json.dumps(info | {"calibration": "2026-11-03"}))
(source / "meta/operators.json").write_text('["a", "b", "a"]')
(source / "README.md").write_text("How this was recorded.")
dataset = LeRobotDataset("you/source", root=source)
print("LeRobot reads the column:", list(dataset.meta.episodes["episode_success"]))


def survives(root):
    columns = pq.read_table(next((root / "meta/episodes").rglob("*.parquet"))).column_names
    return {
        "column of meta/episodes": "episode_success" in columns,
        "key of meta/info.json": "calibration" in json.loads((root / "meta/info.json").read_text()),
        "file in meta": (root / "meta/operators.json").exists(),
        "README.md": (root / "README.md").exists(),
    }


delete_episodes(dataset, [1], output_dir=folder / "deleted", repo_id="you/deleted")
parts = split_dataset(dataset, {"train": [0, 1], "val": [2]}, output_dir=folder / "split")
merge_datasets([dataset, dataset], output_repo_id="you/merged", output_dir=folder / "merged")
seen = {
    "delete_episodes": survives(folder / "deleted"),
    "split_dataset": survives(Path(parts["train"].root)),
    "merge_datasets": survives(folder / "merged"),
}
for tool, kept in seen.items():
    print(f"{tool}:", ", ".join(f"{what} {there}" for what, there in kept.items()))
holds = all(
    list(kept.values()) == [tool == "merge_datasets", False, False, False] for tool, kept in seen.items()
)
print("as described" if holds else "CHANGED")
raise SystemExit(not holds)
PYTHON
