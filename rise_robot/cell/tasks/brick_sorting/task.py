"""Dynamic brick sorting: coloured bricks arrive on a conveyor; each belongs in the bin of its colour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import mujoco
import numpy as np

from rise_env.config import decode
from rise_env.errors import ConfigError
from rise_robot.cell.scene import SIDES
from rise_robot.cell.task import CellTask, TaskStatus
from rise_robot.cell.tasks.brick_sorting import scene
from rise_robot.cell.tasks.brick_sorting.expert import BrickExpert
from rise_robot.cell.tasks.brick_sorting.operators import OPERATORS, BrickOperator

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell

__all__ = ["BrickRanges", "BrickSorting"]

#: Seconds after which a stopped brick counts as jammed, and a brick beside the belt as dropped.
_JAM_SECONDS, _DROP_SECONDS = 1.2, 0.5
#: Seconds between two bricks at the slowest belt of the range decide their distance, m.
_SPACING = 0.14

# Fate of a brick. Everything past _OPEN is final.
_OPEN, _PLACED, _WRONG_BIN, _DROP, _MISS, _JAM = range(6)
_MODES = ("none", "none", "wrong_bin", "drop", "miss", "jam")
# Milestones of a brick and their points; they add up to ten.
_MILESTONES = ("reached", "touched", "grasped", "lifted", "carried", "placed")
_POINTS = np.array([1.0, 1.0, 2.0, 2.0, 2.0, 2.0])


@dataclass(frozen=True)
class BrickRanges:
    """Randomisation of an episode.

    Attributes:
        bricks: Fewest and most bricks.
        colors: Colours in play; there is one bin for each.
        belt_speed: Slowest and fastest belt, m/s.
        yaw: Half-range of a brick's rotation about the vertical, rad.
        offset: Half-range of a brick's distance from the middle of the belt, m.
        arrival: Nearest and farthest start of the first brick, m from the middle, on the side it comes from.
        shuffle_bins: Whether the bins change places between episodes.
    """

    bricks: tuple[int, int]
    colors: tuple[str, ...]
    belt_speed: tuple[float, float]
    yaw: float
    offset: float
    arrival: tuple[float, float]
    shuffle_bins: bool = False

    def __post_init__(self) -> None:
        for color in self.colors:
            if color not in scene.COLORS:
                raise ConfigError(f"unknown brick colour {color!r}. Known colours: {', '.join(scene.COLORS)}.")
        if not 2 <= len(set(self.colors)) == len(self.colors):
            raise ConfigError(f"colors {list(self.colors)} must be two or more different ones")
        if not 1 <= self.bricks[0] <= self.bricks[1] <= 4:
            raise ConfigError(f"bricks {list(self.bricks)} must be a range within 1 to 4")
        if not 0 < self.belt_speed[0] <= self.belt_speed[1] <= 0.3:
            raise ConfigError(f"belt_speed {list(self.belt_speed)} must be a range within (0, 0.3] m/s")
        if not 0 < self.arrival[0] <= self.arrival[1] < scene.BELT_END:
            raise ConfigError(f"arrival {list(self.arrival)} must be a range within (0, {scene.BELT_END}) m")
        if not 0 <= self.offset <= scene.BELT_HALF_WIDTH - scene.BRICK_HALF[1]:
            raise ConfigError(f"offset {self.offset} m lets bricks overhang the belt")


class BrickSorting(CellTask):
    """Coloured bricks arrive on a conveyor; each is to be put into the bin of its colour before it leaves the belt.

    **Start**: the belt runs in either direction at a speed of the range; the bricks lie upstream of the arms, each in a
    colour of its own, turned and off the middle of the belt. The arms are at their start pose, grippers open.
    **Success**: every brick lies in the bin of its colour.
    **Score**: mean over bricks of reached 1, touched 1, grasped 2, lifted 2, carried over its bin 2, placed 2.
    **Progress**: mean over bricks of up to 0.25 for the gripper's approach, 0.35 touched, 0.4 to 0.5 held and lifted,
    up to 0.8 carried, 1 in its bin, 0 once it is lost.
    **Failures**: `wrong_bin` (lies in another colour's bin), `drop` (lies beside belt and bins), `miss` (left the
    belt), `jam` (stands still on the moving belt, or is stuck on a rim); where several bricks fail, the first counts.
    """

    failure_modes = ("wrong_bin", "drop", "miss", "jam")
    failure_meanings: Mapping[str, str] = {
        "wrong_bin": "a brick lies in the bin of the other colour",
        "drop": "a brick fell beside belt and bins",
        "miss": "a brick left the belt before an arm had it",
        "jam": "a brick is stuck: it stands still on the moving belt, or on a rim or a rail",
        "timeout": "the time was up",
    }
    operator_kinds = tuple(OPERATORS)

    def __init__(self, ranges: Mapping[str, Any]) -> None:
        self.ranges = decode(BrickRanges, ranges, "difficulty of brick_sorting")
        colors, count = self.ranges.colors, self.ranges.bricks[1]
        spacing = 0.15 if len(colors) == 2 else 0.13
        self.bin_centers = np.array([(scene.BIN_X, ((len(colors) - 1) / 2 - i) * spacing) for i in range(len(colors))])
        self.max_bricks = count
        self.active: np.ndarray = np.zeros(count, bool)
        self.color: np.ndarray = np.zeros(count, np.int64)
        self.fate: np.ndarray = np.zeros(count, np.int64)
        self.reached: np.ndarray = np.zeros((count, len(_MILESTONES)), bool)
        #: Arm that holds each brick between both pads (index into SIDES), or -1.
        self.holder: np.ndarray = np.full(count, -1)
        #: Seconds a brick has stood still on the belt, and lain beside belt and bins.
        self.stopped: np.ndarray = np.zeros(count)
        self.astray: np.ndarray = np.zeros(count)
        self.first_failure: np.ndarray = np.array(_OPEN)
        #: Belt velocity along y, m/s.
        self.belt_velocity: np.ndarray = np.array(0.0)
        #: Colour of each bin.
        self.bin_color: np.ndarray = np.arange(len(colors))
        self._previous_y: np.ndarray = np.zeros(count)
        self.status = TaskStatus(0.0, 0.0, False, "none", False)

    def add_to_scene(self, root: Element) -> None:
        """Add belt, rails, bins and bricks."""
        scene.add_belt(root)
        for index, center in enumerate(self.bin_centers):
            scene.add_bin(root, index, center)
        for index in range(self.max_bricks):
            scene.add_brick(root, index)

    def bind(self, cell: WorkCell) -> None:
        """Look up indices in the compiled model."""
        super().bind(cell)
        model = cell.model
        names = [f"brick{i}" for i in range(self.max_bricks)]
        self._brick_bodies = np.array([model.body(name).id for name in names])
        self._brick_geoms = np.array([model.geom(name).id for name in names])
        self._brick_qpos = np.array([model.joint(name).qposadr[0] for name in names])
        self._brick_qvel = np.array([model.joint(name).dofadr[0] for name in names])
        self._pads = np.array([[model.geom(f"{side}_finger{i}_pad").id for i in (1, 2)] for side in SIDES])
        bins = range(len(self.bin_centers))
        self._bin_geoms = [np.array([model.geom(f"bin{i}_{part}").id for part in scene.BIN_PARTS]) for i in bins]
        self._belt_actuator = model.actuator("belt").id
        self._belt_qpos = int(model.joint("belt").qposadr[0])
        self._belt_qvel = int(model.joint("belt").dofadr[0])

    def reset(self, rng: np.random.Generator) -> None:
        """Draw belt, bricks and bins."""
        ranges, data = self.ranges, self.cell.data
        count = int(rng.integers(ranges.bricks[0], ranges.bricks[1] + 1))
        side = 1.0 if rng.random() < 0.5 else -1.0
        self.belt_velocity = np.array(-side * rng.uniform(*ranges.belt_speed))
        self.bin_color = np.arange(len(ranges.colors))
        if ranges.shuffle_bins:
            self.bin_color = rng.permutation(self.bin_color)
        self.active = np.arange(self.max_bricks) < count
        self.color = rng.integers(len(ranges.colors), size=self.max_bricks)
        start = rng.uniform(*ranges.arrival)
        for index in range(self.max_bricks):
            pose = scene.parking(index)
            yaw, offset = rng.uniform(-ranges.yaw, ranges.yaw), rng.uniform(-ranges.offset, ranges.offset)
            if self.active[index]:
                y = side * (start + index * _SPACING)
                pose[:3] = scene.BELT_X + offset, y, scene.BELT_TOP + scene.BRICK_HALF[2]
                pose[3:] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
                data.qvel[self._brick_qvel[index] + 1] = self.belt_velocity
            data.qpos[self._brick_qpos[index] :][:7] = pose
        data.qvel[self._belt_qvel] = self.belt_velocity
        data.ctrl[self._belt_actuator] = self.belt_velocity
        self.fate = np.where(self.active, _OPEN, _PLACED)
        self.reached = np.zeros_like(self.reached)
        self.stopped, self.astray = np.zeros(self.max_bricks), np.zeros(self.max_bricks)
        self.holder = np.full(self.max_bricks, -1)
        self.first_failure = np.array(_OPEN)
        self._previous_y = data.qpos[self._brick_qpos + 1].copy()
        self._paint()

    def _paint(self) -> None:
        rgba = self.cell.model.geom_rgba
        palette = np.array([scene.COLORS[name] for name in self.ranges.colors])
        rgba[self._brick_geoms, :3] = palette[self.color]
        for geoms, color in zip(self._bin_geoms, self.bin_color, strict=True):
            rgba[geoms, :3] = 0.4 * palette[color] + 0.5  # pale, so that a brick shows in its own bin

    def advance(self) -> TaskStatus:
        """Update contacts, milestones and fates after a control step."""
        cell = self.cell
        data, seconds = cell.data, 1 / cell.spec.fps
        # The belt is endless: shifting it by whole stripes changes nothing that can be felt, and its far ends only in
        # what can be seen. Positions follow at once, so that images are those of a restored snapshot.
        if shift := scene.STRIPE * np.round(data.qpos[self._belt_qpos] / scene.STRIPE):
            data.qpos[self._belt_qpos] -= shift
            mujoco.mj_fwdPosition(cell.model, data)

        position = self.brick_positions()
        touching = self._pad_contacts()
        touched = np.asarray(touching.any((0, 2)))
        self.holder = np.where(touching.all(-1).any(0), touching.all(-1).argmax(0), -1)
        held = self.holder >= 0
        in_bin = self._bin_under(position)
        still = np.linalg.norm(data.qvel[self._brick_qvel[:, None] + np.arange(3)], axis=-1) < 0.03
        # A brick that came to rest on another one may look over the rim.
        depth = np.where(still, scene.BIN_HEIGHT + 2 * scene.BRICK_HALF[2], scene.BIN_HEIGHT)
        inside = (in_bin >= 0) & (position[:, 2] < depth) & ~held
        right_bin = inside & (self.bin_color[np.maximum(in_bin, 0)] == self.color)
        above_own = (in_bin >= 0) & (self.bin_color[np.maximum(in_bin, 0)] == self.color)
        on_belt = self._over_belt(position) & ~held
        travelled = (position[:, 1] - self._previous_y) * np.sign(self.belt_velocity)
        stopped = on_belt & (travelled < 0.3 * abs(self.belt_velocity) * seconds) & (cell.steps > 0)
        self.stopped = np.where(stopped, self.stopped + seconds, np.maximum(0, self.stopped - seconds))
        astray = ~held & ~on_belt & ~inside & (position[:, 2] < scene.BIN_HEIGHT + 2 * scene.BRICK_HALF[2])
        self.astray = np.where(astray, self.astray + seconds, 0.0)
        self._previous_y = position[:, 1].copy()

        open_ = self.fate == _OPEN
        low = position[:, 2] < scene.BELT_TOP
        fates = (
            (right_bin, _PLACED),
            (inside & ~right_bin, _WRONG_BIN),
            (~held & (position[:, 1] * np.sign(self.belt_velocity) > scene.BELT_END), _MISS),
            (self.stopped > _JAM_SECONDS, _JAM),
            ((self.astray > _DROP_SECONDS) & low | (position[:, 2] < -0.05), _DROP),
            ((self.astray > _JAM_SECONDS) & ~low, _JAM),
        )
        for condition, fate in fates:
            for index in np.flatnonzero(open_ & (self.fate == _OPEN) & condition):
                self.fate[index] = fate
                if fate != _PLACED and self.first_failure == _OPEN:
                    self.first_failure = np.array(fate)
        lifted = held & (position[:, 2] > scene.BELT_TOP + scene.BRICK_HALF[2] + 0.03)
        near, placed = self._gripper_distance(position) < 0.05, self.fate == _PLACED
        milestones = np.stack([near, touched, held, lifted, lifted & above_own, placed], -1)
        self.reached |= milestones & self.active[:, None]
        self.status = self._status(position, touched, held)
        return self.status

    def _status(self, position: np.ndarray, touched: np.ndarray, held: np.ndarray) -> TaskStatus:
        active = self.active
        approach = 0.25 * (1 - np.clip(self._gripper_distance(position) / 0.4, 0, 1))
        lift = np.clip((position[:, 2] - scene.BELT_TOP - scene.BRICK_HALF[2]) / 0.06, 0, 1)
        own_bin = self.bin_centers[np.argmax(self.bin_color[None] == self.color[:, None], axis=1)]
        away = np.linalg.norm(position[:, :2] - own_bin, axis=-1)
        carry = 0.3 * (1 - np.clip(away / 0.35, 0, 1)) * lift
        progress = np.where(held, 0.4 + 0.1 * lift + carry, np.where(touched, np.maximum(approach, 0.35), approach))
        # Let go above its own bin, a brick is on its last way, not lost.
        falling = ~held & (np.abs(position[:, :2] - own_bin) < scene.BIN_HALF).all(-1)
        progress = np.where(falling, np.maximum(progress, 0.8), progress)
        progress = np.where(self.fate == _PLACED, 1.0, np.where(self.fate > _PLACED, 0.0, progress))
        success = bool((self.fate[active] == _PLACED).all())
        score, finished = (self.reached[active] @ _POINTS).mean(), bool((self.fate[active] != _OPEN).all())
        mode = _MODES[int(self.first_failure)]
        return TaskStatus(float(progress[active].mean()), float(score), success, mode, finished)

    def brick_positions(self) -> np.ndarray:
        """Centres of all bricks, (bricks, 3) m."""
        return self.cell.data.qpos[self._brick_qpos[:, None] + np.arange(3)]

    def brick_yaws(self) -> np.ndarray:
        """Rotation of the bricks' long axes about the vertical, (bricks,) rad."""
        matrix = self.cell.data.xmat[self._brick_bodies].reshape(-1, 3, 3)
        return np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])

    def own_bin(self, brick: int) -> np.ndarray:
        """Centre of the bin of a brick's colour, (2,) m."""
        return self.bin_centers[int(np.argmax(self.bin_color == self.color[brick]))]

    def over_a_bin(self, brick: int) -> bool:
        """Whether a brick is above or in any bin."""
        return bool(self._bin_under(self.brick_positions())[brick] >= 0)

    def waiting(self) -> np.ndarray:
        """Indices of the bricks whose fate is open, the one that leaves the belt first in front."""
        index = np.flatnonzero(self.active & (self.fate == _OPEN))
        along = self.brick_positions()[index, 1] * np.sign(self.belt_velocity)
        return index[np.argsort(-along, kind="stable")]

    def _gripper_distance(self, position: np.ndarray) -> np.ndarray:
        tips = np.stack([self.cell.grasp_point(side) for side in SIDES])
        return np.linalg.norm(position[:, None] - tips[None], axis=-1).min(-1)

    def _bin_under(self, position: np.ndarray) -> np.ndarray:
        inside = (np.abs(position[:, None, :2] - self.bin_centers[None]) < scene.BIN_HALF).all(-1)
        return np.where(inside.any(-1), inside.argmax(-1), -1)

    @staticmethod
    def _over_belt(position: np.ndarray) -> np.ndarray:
        across = np.abs(position[:, 0] - scene.BELT_X) < scene.BELT_HALF_WIDTH + 0.012
        return across & (position[:, 2] > scene.BELT_TOP) & (position[:, 2] < scene.BELT_TOP + 0.05)

    def _pad_contacts(self) -> np.ndarray:
        """Which finger pad touches which brick, bool (arms, bricks, 2)."""
        contact = self.cell.data.contact
        pairs = contact.geom[contact.dist < 0.001] if self.cell.data.ncon else np.empty((0, 2), int)
        pairs = np.concatenate([pairs, pairs[:, ::-1]])
        pad = pairs[:, 0][:, None, None] == self._pads[None]
        brick = pairs[:, 1][:, None] == self._brick_geoms[None]
        return (pad[:, :, None, :] & brick[:, None, :, None]).any(0)

    _FIELDS = ("active", "color", "fate", "reached", "stopped", "astray", "holder", "first_failure", "belt_velocity",
               "bin_color", "_previous_y")  # fmt: skip

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything that `advance` remembers."""
        return {name: np.array(getattr(self, name)) for name in self._FIELDS}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Undo everything since `get_state`."""
        for name in self._FIELDS:
            setattr(self, name, np.array(state[name]))
        self._paint()
        position = self.brick_positions()
        self.status = self._status(position, np.asarray(self._pad_contacts().any((0, 2))), self.holder >= 0)

    def expert(self) -> BrickExpert:
        """Makes no mistakes."""
        return BrickExpert(self.cell, self)

    def operator(self, kind: str | None, seed: int) -> BrickOperator:
        """Makes those of its kind."""
        return BrickOperator(self.cell, self, kind, seed)
