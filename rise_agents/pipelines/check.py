"""From a dataset to the page that says whether it is good enough."""

from __future__ import annotations

from pathlib import Path

from rise_agents.reporting.check_page import write_check_page
from rise_env.data.check import Checked
from rise_env.tasks import TaskSpec

__all__ = ["cost_of", "write_page_of"]


def cost_of(checked: Checked, spec: TaskSpec | None) -> dict[str, str]:
    """What training will take, as far as the data alone decide it, in words."""
    source = checked.source
    if source is None:
        return {}
    frames = float(source.lengths.mean() * checked.total)
    cost: dict[str, str] = {}
    if checked.motion is not None:
        dims = checked.motion.state.shape[1] + checked.motion.action.shape[1]
        cost["Memory for joint values"] = _bytes(frames * dims * 4)
    height, width = spec.image_size if spec else (48, 64)
    views = len(spec.cameras) if spec else len(source.cameras)
    cost[f"Disk for decoded frames ({views} cameras, {width}x{height})"] = _bytes(frames * views * height * width * 3)
    if checked.decoding_seconds:
        rate = sum(len(camera.brightness) for camera in checked.cameras) / checked.decoding_seconds
        text = f"{_time(frames * views / rate)}: {rate:.0f} camera frames a second here and now"
        cost["Decoding, once per dataset and image size"] = text
    return cost


def write_page_of(path: Path, checked: Checked, spec: TaskSpec | None, command: str) -> Path:
    """Write the page of a check; `command` is what to type to check again."""
    return write_check_page(path, checked, cost_of(checked, spec), command)


def _bytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} minutes"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
