"""Record episodes of the scripted operator as a LeRobot dataset: python -m rise_gym_aloha.record --out data/aloha."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

__all__ = ["main"]

JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
#: Control steps of an episode: theirs have 300 steps, five in ours.
LIMIT = 60
#: Control steps that go on after success: a chunk, so that its last states have the whole future of a chunk on record.
TAIL = 16
PROMPT = "Pick up the cube with the right arm and hand it over to the left arm."


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="directory to make")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=100_000, help="seed of the first episode")
    args = parser.parse_args(argv)

    import av
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from rise_env.data.video import video_encoder
    from rise_gym_aloha.operator import Operator
    from rise_gym_aloha.simulation import TransferCube

    av.logging.set_libav_level(av.logging.ERROR)  # else the encoder tells a page an episode
    simulation, names = TransferCube(), [f"{side}_{joint}" for side in ("left", "right") for joint in JOINTS]
    vector, flag = {"dtype": "float32", "shape": (14,), "names": names}, {"dtype": "bool", "shape": (1,), "names": None}
    share = {"dtype": "float32", "shape": (1,), "names": None}
    video = {"dtype": "video", "shape": (48, 64, 3), "names": ["height", "width", "channels"]}
    features = {"observation.images.top": video, "observation.images.angle": video, "observation.state": vector,
                "action": vector, "next.success": flag, "progress": share}  # fmt: skip
    dataset = LeRobotDataset.create(
        f"local/{Path(args.out).name}", fps=10, features=features, root=args.out, robot_type="aloha",
        rgb_encoder=video_encoder((48, 64)), streaming_encoding=True, encoder_threads=1,
    )  # fmt: skip
    outcomes: Counter[tuple[str, bool]] = Counter()
    for seed in range(args.seed, args.seed + args.episodes):
        simulation.start(seed)
        operator, succeeded, left = Operator(simulation, np.random.default_rng(seed)), False, LIMIT
        while left > 0:
            seen, action, progress = simulation.observe(), operator.act(), simulation.progress()
            success = simulation.advance(action.astype(np.float64)).success
            left = TAIL if success and not succeeded else left - 1
            succeeded = succeeded or success
            frame = {f"observation.images.{name}": seen[f"image_{name}"] for name in ("top", "angle")}
            frame |= {"observation.state": seen["state"], "action": action, "task": PROMPT}
            frame |= {"next.success": np.array([succeeded]), "progress": np.array([progress], np.float32)}
            dataset.add_frame(frame)
        dataset.save_episode()
        outcomes[operator.mistake, succeeded] += 1
        print(seed, operator.mistake, "success" if succeeded else "failure", flush=True)
    dataset.finalize()
    simulation.close()
    for (mistake, success), count in sorted(outcomes.items()):
        print(f"{count:4} {mistake}: {'success' if success else 'failure'}")


if __name__ == "__main__":
    main()
