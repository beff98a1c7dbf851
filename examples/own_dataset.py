"""A LeRobot dataset of your robot: is it good enough, and what task does it make?

python examples/own_dataset.py data/my_robot
"""

import sys
from pathlib import Path

from rise_agents.pipelines.init_task import write_task
from rise_env.data import Windows, open_dataset
from rise_env.data.check import check_dataset
from rise_env.tasks import load_task


def main(data: str, folder: str = "tasks/my_robot") -> None:
    checked = check_dataset(data, pictures=False)  # with pictures it looks at every video, too
    print(checked.verdict())
    for finding in checked.findings[:5]:
        print(f"  {finding.severity}: {finding.message}")

    if not Path(folder).exists():
        task = write_task(open_dataset(data), Path(folder), Path(folder).name)  # a folder of YAML, yours to correct
        print(f"{task.folder}: {len(task.guesses)} guesses to look at")

    spec = load_task(folder)
    windows = Windows(open_dataset(data, spec))  # what the models are trained on
    print(f"{len(windows)} windows of {spec.history} past frames and {spec.chunk} joint targets at {spec.fps} Hz")
    print(f"go on with: rise train bundle --task {folder} --data {data} --out bundles/{spec.name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
