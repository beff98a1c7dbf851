"""Box closing in the work cell: episode randomisation and ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import numpy as np

from rise_env.config import decode
from rise_env.errors import ConfigError
from rise_robot.cell.scene import SIDES
from rise_robot.cell.task import CellTask, TaskStatus
from rise_robot.cell.tasks.box_closing import scene

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell

__all__ = ["BoxClosing", "BoxRanges"]

#: Where the box and the cup stand in the middle of their ranges, (x, y) m.
_BOX, _CUP = np.array([0.27, 0.03]), np.array([0.25, -0.23])


@dataclass(frozen=True)
class BoxRanges:
    """Randomisation of an episode.

    Attributes:
        slot: Width of the slot, m; the tab is 3 mm thick at its edge.
        box: Half-ranges of the box's pose about the middle of the cell: x, y (m) and rotation about the vertical (rad).
        cup: Half-ranges of the cup's pose on the table beside the box: x, y (m) and rotation of its handle (rad).
        flap: Smallest and largest angle that the flap stands open at, rad; 0 is closed.
        tab: Smallest and largest angle that the tab is creased by, rad; pi / 2 hangs straight down from the flap.
    """

    slot: float
    box: tuple[float, float, float]
    cup: tuple[float, float, float]
    flap: tuple[float, float]
    tab: tuple[float, float]

    def __post_init__(self) -> None:
        if not 0.006 <= self.slot <= 0.02:
            raise ConfigError(f"slot {self.slot} m must be within 0.006 to 0.02 m")


class BoxClosing(CellTask):
    """The cell's side of `box_closing`."""

    failure_modes = ("cup_tipped", "flap_sprang_back", "tab_beside", "box_pushed")

    def __init__(self, ranges: Mapping[str, Any]) -> None:
        self.ranges = decode(BoxRanges, ranges, "difficulty of box_closing")
        self.status = TaskStatus(0.0, 0.0, False, "none", False)

    def add_to_scene(self, root: Element) -> None:
        """Add box and cup."""
        scene.add_box(root, self.ranges.slot)
        scene.add_cup(root)

    def bind(self, cell: WorkCell) -> None:
        """Look up indices in the compiled model."""
        super().bind(cell)
        model = cell.model
        self._address = {name: int(model.joint(name).qposadr[0]) for name in ("box", "cup", "flap", "tab")}
        self._plastic = {name: int(model.jnt_plasticadr[model.joint(name).id]) for name in ("flap", "tab")}

    def reset(self, rng: np.random.Generator) -> None:
        """Draw where box and cup stand and how the cardboard is creased."""
        ranges, data = self.ranges, self.cell.data
        for name, middle, half, height in (
            ("box", _BOX, ranges.box, 0.0),
            ("cup", _CUP, ranges.cup, scene.CUP_HEIGHT / 2),
        ):
            x, y, yaw = rng.uniform(-1, 1, 3) * half
            if name == "cup":
                yaw += np.pi / 2
            pose = (middle[0] + x, middle[1] + y, height, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
            data.qpos[self._address[name] :][:7] = pose
        for name, span in (("flap", ranges.flap), ("tab", ranges.tab)):
            angle = rng.uniform(*span)
            data.qpos[self._address[name]] = data.plastic[self._plastic[name]] = angle

    def advance(self) -> TaskStatus:
        return self.status

    def get_state(self) -> dict[str, np.ndarray]:
        return {}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        pass

    def expert(self):
        raise NotImplementedError
