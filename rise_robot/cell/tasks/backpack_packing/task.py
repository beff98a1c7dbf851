"""Backpack packing: hold the bag's mouth open, put the shirt inside, zip the bag shut, lift it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import numpy as np

from rise_env.config import decode
from rise_env.errors import requirement
from rise_robot.cell.scene import SIDES
from rise_robot.cell.task import CellTask, TaskStatus
from rise_robot.cell.tasks.backpack_packing import scene
from rise_robot.cell.tasks.backpack_packing.expert import BackpackExpert
from rise_robot.cell.tasks.backpack_packing.operators import OPERATORS, BackpackOperator

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell

__all__ = ["BackpackPacking", "BackpackRanges"]

#: Cloth that stands over the rim by so much is pressed in by the flap, m.
RIM_SLACK = 0.020
#: Angle of the flap from which the mouth is held open, rad; height at which the bag counts as lifted, m.
OPEN_ANGLE, LIFTED = 1.1, 0.03
#: Share of the slider's way from which the zipper is shut, and from which cloth outside is caught in it.
SHUT, CAUGHT = 0.96, 0.5
#: Greatest angle of a strip at which the slider takes it along, rad.
_TEETH = 0.85
#: Where the slider joins each strip, along y from the bag's middle, m.
_JOINED = scene.ZIP * (2 * np.arange(scene.STRIPS) + 1 - scene.STRIPS) / scene.STRIPS
#: Tilt from which the bag has fallen over, rad.
_TIPPED = 0.9
#: Time a shirt lies beside the bag before it is dropped, s.
_DROP_SECONDS = 3.0

_MODES = ("none", "dropped", "outside", "snagged", "open", "tipped")
_MILESTONES = ("mouth", "gripped", "raised", "over", "inside", "half", "shut", "lifted")
#: Mouth held open 1, shirt gripped 1, raised 1, over the mouth 1, inside 2, zipper half 1, shut 1, bag lifted 2.
_POINTS = np.array([1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 2.0])


@dataclass(frozen=True)
class BackpackRanges:
    """Randomisation of an episode.

    Attributes:
        bag: Half-ranges of the bag's place along x and y, m.
        shirt: Half-ranges of the shirt's place along x and y, m.
        turn: Half-range of the shirt's rotation about the vertical, rad.
    """

    bag: tuple[float, float]
    shirt: tuple[float, float]
    turn: float

    def __post_init__(self) -> None:
        require = requirement("difficulty of backpack_packing")
        require(0 <= min(self.bag) <= max(self.bag) <= 0.03, f"bag is {self.bag}, expected 0 to 0.03 m each")
        require(0 <= min(self.shirt) <= max(self.shirt) <= 0.05, f"shirt is {self.shirt}, expected 0 to 0.05 m each")
        require(0 <= self.turn <= np.pi, f"turn is {self.turn}, expected 0 to pi rad")


class BackpackPacking(CellTask):
    """A T-shirt of cloth goes into a backpack, which is zipped and lifted: one arm holds the flap, the other packs.

    **Start**: the bag lies open on its back and the shirt flat beside it, each a little off its place, the shirt
    turned. The arms are at their start pose, grippers open.
    **Success**: the shirt is inside, the zipper shut, and the whole bag off the table.
    **Score**: mouth held open 1, shirt gripped 1, raised 1, over the mouth 1, inside 2, zipper half shut 1, shut 1, bag
    lifted 2.
    **Progress**: up to 0.1 for the open mouth, 0.1 to 0.5 for the shirt's way, 0.5 to 0.8 for the zipper, then the
    bag's height; 1 at success, 0 once it has failed.
    **Failures**: `dropped` (the shirt was raised and lies beside the bag), `outside` (the zipper closed over a bag
    without it), `snagged` (the zipper closed over a shirt that hangs out), `open` (the bag was lifted unzipped),
    `tipped` (the bag fell over).
    """

    failure_modes = _MODES[1:]
    failure_meanings: Mapping[str, str] = {
        "dropped": "the shirt was let go and lies beside the bag",
        "outside": "the zipper was pulled shut without the shirt",
        "snagged": "the zipper was shut over a shirt that hangs out",
        "open": "the bag was lifted with its zipper open",
        "tipped": "the bag fell over",
        "timeout": "the time was up",
    }
    operator_kinds = tuple(OPERATORS)

    def __init__(self, ranges: Mapping[str, Any]) -> None:
        self.ranges = decode(BackpackRanges, ranges, "difficulty of backpack_packing")
        self.reached: np.ndarray = np.zeros(len(_MILESTONES), bool)
        #: Index into the failure modes; 0 while nothing is lost.
        self.fate: np.ndarray = np.array(0)
        self.astray: np.ndarray = np.array(0.0)
        self.status = TaskStatus(0.0, 0.0, False, "none", False)

    def add_to_scene(self, root: Element) -> None:
        """Add bag and shirt."""
        scene.set_physics(root)
        scene.add_bag(root)
        scene.add_garment(root)

    def bind(self, cell: WorkCell) -> None:
        """Look up indices in the compiled model."""
        super().bind(cell)
        model = cell.model
        joint = lambda name: int(model.joint(name).qposadr[0])  # noqa: E731
        self._bag, self._bag_qpos = model.body("bag").id, joint("bag")
        self._strips = np.array([joint(f"strip{i}") for i in range(scene.STRIPS)])
        self._slider = joint("slider")
        self._zips = np.array([model.equality(f"zip{i}").id for i in range(scene.STRIPS)])
        joints = model.body_jntadr[model.flex_vertbodyid]
        self._shirt_qpos = model.jnt_qposadr[joints][:, None] + np.arange(3)
        self._shirt_home = model.body_pos[model.flex_vertbodyid]
        self._pads = [[model.geom(f"{side}_finger{i}_pad").id for i in (1, 2)] for side in SIDES]
        self._loop, self._tab = model.geom("loop").id, model.geom("tab").id
        self._handles = [model.geom(f"bag_{side}_loop").id for side in SIDES]

    def reset(self, rng: np.random.Generator) -> None:
        """Place bag and shirt; the zipper is open."""
        ranges, data = self.ranges, self.cell.data
        bag = np.array([scene.BAG_X, scene.BAG_Y]) + rng.uniform(-1, 1, 2) * ranges.bag
        data.qpos[self._bag_qpos :][:7] = [*bag, 0.0005, 1, 0, 0, 0]
        data.qpos[self._strips] = 0.5
        data.qpos[self._slider] = scene.ZIP
        place = np.array([scene.SHIRT_X, scene.SHIRT_Y]) + rng.uniform(-1, 1, 2) * ranges.shirt
        turn = np.pi / 2 + rng.uniform(-ranges.turn, ranges.turn)
        points, (c, s) = scene.garment_points()[0], (np.cos(turn), np.sin(turn))
        where = np.c_[points[:, :2] @ np.array([[c, s], [-s, c]]) + place, points[:, 2] + scene.RADIUS + 0.001]
        data.qpos[self._shirt_qpos] = where - self._shirt_home
        self.reached = np.zeros_like(self.reached)
        self.fate, self.astray = np.array(0), np.array(0.0)

    def advance(self) -> TaskStatus:
        """Let the slider join or part what it has passed; update milestones and fate."""
        data, seconds = self.cell.data, 1 / self.cell.spec.fps
        self._zip()
        share, height, tilt = self.zipped, float(data.xpos[self._bag][2]), self.bag_tilt()
        inside, over, gripped = self.inside(), self._over(), self.grips("shirt")
        held = max(gripped)
        lowest, middle = self.shirt_points()[:, 2].min(), self.shirt_points().mean(0)
        raised = held and middle[2] > 0.05
        astray = self.reached[2] and not held and inside < 0.5 and lowest < 0.03 and middle[2] < scene.BAG_HEIGHT
        self.astray = np.where(astray, self.astray + seconds, 0.0)
        lifted = height > LIFTED
        if not self.fate:
            conditions = (
                (tilt > _TIPPED, "tipped"),
                (self.astray > _DROP_SECONDS, "dropped"),
                (share > CAUGHT and inside < 0.3, "outside"),
                (share > SHUT and inside < scene.INSIDE, "snagged"),
                (lifted and share < SHUT and self._clear(), "open"),
            )
            for condition, mode in conditions:
                if condition:
                    self.fate = np.array(_MODES.index(mode))
                    break
        packed = inside >= scene.INSIDE and not held
        shut = share > SHUT and packed and bool(data.eq_active[self._zips].all())
        milestones = (self.flap > OPEN_ANGLE and max(self.grips("loop")), held, raised, raised and over, packed,
                      packed and share > 0.5, shut, shut and lifted and self._clear())  # fmt: skip
        if not self.fate:
            self.reached |= np.array(milestones)
        self.status = self._status()
        return self.status

    def _zip(self) -> None:
        passed = self.bag_frame(self.cell.data.geom_xpos[self._tab])[1] < _JOINED
        active = self.cell.data.eq_active
        near = self.cell.data.qpos[self._strips] < _TEETH
        active[self._zips] = np.where(passed, active[self._zips] | near, 0)

    def _status(self) -> TaskStatus:
        success, score = bool(self.reached[-1]), float(self.reached @ _POINTS)
        if self.fate or success:
            return TaskStatus(float(success), score, success, _MODES[int(self.fate)], True)
        inside, height, flap = self.inside(), float(self.cell.data.xpos[self._bag][2]), self.flap
        held = max(self.grips("shirt"))
        if inside >= scene.INSIDE and not held:
            lift = np.clip(height / LIFTED, 0, 1) * (self.zipped > SHUT)
            progress = 0.5 + 0.3 * self.zipped + 0.19 * lift
        else:
            mouth = np.clip((flap - 0.5) / (OPEN_ANGLE - 0.5), 0, 1)
            middle = self.bag_frame(self.shirt_points().mean(0))
            near = 1 - np.clip(np.hypot(*middle[:2]) / 0.3, 0, 1)
            progress = 0.1 * mouth + 0.1 * held + 0.2 * near * (held or inside > 0.5) + 0.1 * inside
        return TaskStatus(float(progress), score, False, "none", False)

    @property
    def zipped(self) -> float:
        """Share of the slider's way that is done, in [0, 1]."""
        return float(np.clip((scene.ZIP - self.cell.data.qpos[self._slider]) / (2 * scene.ZIP), 0, 1))

    @property
    def flap(self) -> float:
        """Angle of the flap at its loop, rad from shut."""
        return float(self.cell.data.qpos[self._strips[scene.LOOP_STRIP]])

    def shirt_points(self) -> np.ndarray:
        """The shirt's vertices in the world, (n, 3) m."""
        return self.cell.data.flexvert_xpos

    def bag_frame(self, points: np.ndarray) -> np.ndarray:
        """Points of the world, (..., 3) m, in the bag's frame."""
        data = self.cell.data
        return (points - data.xpos[self._bag]) @ data.xmat[self._bag].reshape(3, 3)

    def bag_pose(self) -> tuple[np.ndarray, float]:
        """Position of the bag's origin in the world, (3,) m, and its yaw, rad."""
        data = self.cell.data
        return data.xpos[self._bag].copy(), float(np.arctan2(data.xmat[self._bag][3], data.xmat[self._bag][0]))

    def bag_tilt(self) -> float:
        """Angle between the bag's upright axis and the vertical, rad."""
        return float(np.arccos(np.clip(self.cell.data.xmat[self._bag][8], -1, 1)))

    def place(self, what: str) -> np.ndarray:
        """Middle of `loop`, `tab`, `left_handle` or `right_handle` in the world, (3,) m."""
        geoms = {"loop": self._loop, "tab": self._tab, "left_handle": self._handles[0],
                 "right_handle": self._handles[1]}  # fmt: skip
        return self.cell.data.geom_xpos[geoms[what]].copy()

    def points_inside(self) -> np.ndarray:
        """Which of the shirt's vertices are inside the bag, bool (n,)."""
        local = self.bag_frame(self.shirt_points())
        within = (np.abs(local[:, :2]) < scene.BAG_HALF + scene.WALL).all(-1)
        return np.asarray(within & (local[:, 2] < scene.BAG_HEIGHT + RIM_SLACK))

    def inside(self) -> float:
        """Share of the shirt's vertices inside the bag, in [0, 1]."""
        return float(self.points_inside().mean())

    def shirt_turn(self) -> float:
        """Angle of the line from the shirt's hem to its neck about the vertical, rad; 0 towards the arms."""
        points = self.shirt_points() - self.shirt_points().mean(0)
        line = (scene.garment_points()[0][:, 1] @ points)[:2]
        return float(np.arctan2(-line[1], -line[0]))

    def was_let_go(self) -> bool:
        """Whether the shirt was raised and no hand holds it."""
        return bool(self.reached[_MILESTONES.index("raised")]) and not any(self.grips("shirt"))

    def _over(self) -> bool:
        middle = self.bag_frame(self.shirt_points().mean(0))
        return bool((np.abs(middle[:2]) < scene.BAG_HALF).all())

    def _clear(self) -> bool:
        """Whether the whole underside is off the table."""
        data = self.cell.data
        drop = np.abs(data.xmat[self._bag].reshape(3, 3)[2, :2]) @ (scene.BAG_HALF + 2 * scene.WALL)
        return bool(data.xpos[self._bag][2] - drop > 0.005)

    def grips(self, what: str) -> tuple[bool, bool]:
        """Which arms hold `shirt`, `loop`, `tab`, `left_handle` or `right_handle` between both pads."""
        contact = self.cell.data.contact
        near = contact.dist < 0.001
        geom, flex = contact.geom[near], contact.flex[near]
        if what == "shirt":
            touched = set(geom[flex.max(-1) >= 0].max(-1).tolist())
        else:
            wanted = {"loop": self._loop, "tab": self._tab, "left_handle": self._handles[0],
                      "right_handle": self._handles[1]}[what]  # fmt: skip
            touched = set(geom[(geom == wanted).any(-1)].ravel().tolist())
        left, right = (all(pad in touched for pad in pads) for pads in self._pads)
        return left, right

    _FIELDS = ("reached", "fate", "astray")

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything that `advance` remembers."""
        return {name: np.array(getattr(self, name)) for name in self._FIELDS}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Undo everything since `get_state`."""
        for name in self._FIELDS:
            setattr(self, name, np.array(state[name]))
        self.status = self._status()

    def expert(self) -> BackpackExpert:
        """Makes no mistakes."""
        return BackpackExpert(self.cell, self)

    def operator(self, kind: str | None, seed: int) -> BackpackOperator:
        """Makes those of its kind."""
        return BackpackOperator(self.cell, self, kind, seed)
