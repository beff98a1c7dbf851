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
from rise_robot.cell.scripted import ScriptedPolicy
from rise_robot.cell.task import CellTask, TaskStatus
from rise_robot.cell.tasks.box_closing import scene
from rise_robot.cell.tasks.box_closing.expert import BoxExpert
from rise_robot.cell.tasks.box_closing.operators import OPERATORS, BoxOperator

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell

__all__ = ["BoxClosing", "BoxRanges"]

#: Where the box and the cup stand in the middle of their ranges, (x, y) m; the cup's handle points to the left.
_BOX, _CUP, _HANDLE = np.array([0.27, 0.03]), np.array([0.25, -0.23]), np.pi / 2
#: Sub-goals and their points: cup touched, lifted, in the box; flap folded, held down; tab at the slot, in it; closed.
_POINTS = np.array([1, 1, 2, 1, 1, 1, 2, 1])
#: Angles of the flap, rad: folded so far that the tab is near the slot, and closed.
FOLDED, CLOSED = 0.5, 0.10
#: How far the tab's edge reaches below the rim once it is in the slot, or beside it, m.
_IN_SLOT, _BESIDE = 0.006, 0.003
#: What the cup may lean, as the cosine of the angle: standing, and not tipped over yet.
_UPRIGHT, _TIPPED = 0.94, 0.6
#: How far the box may be moved (m) and turned (rad).
_PUSHED, _TURNED = 0.05, 0.4
#: Seconds until a condition that lasts decides the episode: hands off a closed box, a flap that was let go, a tab that
#: is pressed beside the slot, a cup that lies.
_FREE_SECONDS, _LOOSE_SECONDS, _BESIDE_SECONDS, _TIPPED_SECONDS = 0.3, 1.0, 1.5, 0.3


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
        if not 0.005 <= self.slot <= 0.02:
            raise ConfigError(f"slot {self.slot} must be within 0.005 to 0.02 m")
        for name, low, high in (("flap", 1.3, 2.3), ("tab", 0.4, 1.6)):
            span = getattr(self, name)
            if not low <= span[0] <= span[1] <= high:
                raise ConfigError(f"{name} {list(span)} must be a range within {low} to {high} rad")
        for name, limits in (("box", (0.05, 0.05, 0.5)), ("cup", (0.07, 0.05, np.pi))):
            half = getattr(self, name)
            if any(not 0 <= value <= limit + 1e-6 for value, limit in zip(half, limits, strict=True)):
                raise ConfigError(f"{name} {list(half)} must be half-ranges of at most {limits[0]} m, {limits[1]} m "
                                  f"and {limits[2]:.3f} rad")  # fmt: skip


class BoxClosing(CellTask):
    """A cup goes into a cardboard box, whose flap is folded over it and whose tab is tucked into its slot.

    **Start**: box and cup stand on the table, moved and turned; flap and tab are creased at angles of their ranges. The
    arms are at their start pose, grippers open.
    **Success**: the cup stands inside, the tab is in the slot, the flap is shut and both hands are off it.
    **Score**: cup touched 1, lifted 1, stands in the box 2, flap folded 1, held down 1, tab at the slot 1, in the slot
    2, closed and let go 1.
    **Progress**: up to 0.4 for the cup (0.2 held), up to 0.6 for folding the flap, 0.75 for the tab's way to the slot,
    0.9 for its way into it, 0.97 closed, 1 closed and let go; 0 once failed.
    **Failures**: `cup_tipped` (lies, or fell), `flap_sprang_back` (was folded and let go, and is open), `tab_beside`
    (pressed down beside the slot, for too long or and let go), `box_pushed` (moved by more than 5 cm or turned by more
    than 0.4 rad).
    """

    failure_modes = ("cup_tipped", "flap_sprang_back", "tab_beside", "box_pushed")
    failure_meanings: Mapping[str, str] = {
        "cup_tipped": "the cup fell over",
        "flap_sprang_back": "the flap was let go and sprang open",
        "tab_beside": "the tab was pressed down beside its slot",
        "box_pushed": "the box was pushed away",
        "timeout": "the time was up",
    }
    operator_kinds = tuple(OPERATORS)
    drift = 0.02

    def __init__(self, ranges: Mapping[str, Any]) -> None:
        self.ranges = decode(BoxRanges, ranges, "difficulty of box_closing")
        self.reached: np.ndarray = np.zeros(len(_POINTS), bool)
        #: Index of the failure mode, or -1.
        self.failure: np.ndarray = np.array(-1)
        self.done: np.ndarray = np.array(False)
        #: Where the box stood at the beginning: x, y (m) and rotation (rad); and the angle its flap was open at.
        self.start: np.ndarray = np.zeros(4)
        #: Whether the flap was folded, and whether it was pressed down with the tab beside the slot.
        self.folded: np.ndarray = np.zeros(2, bool)
        #: Seconds that lasting conditions have lasted: free, loose, beside, tipped.
        self.lasting: np.ndarray = np.zeros(4)
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
        self._bodies = {name: model.body(name).id for name in ("box", "cup", "flap", "tab")}
        self._pads = np.array([[model.geom(f"{side}_finger{i}_pad").id for i in (1, 2)] for side in SIDES])
        self._arms = [model.body(f"{side}_base").id for side in SIDES]

    def reset(self, rng: np.random.Generator) -> None:
        """Draw where box and cup stand and how the cardboard is creased."""
        ranges, data = self.ranges, self.cell.data
        x, y, yaw = np.r_[_BOX, 0.0] + rng.uniform(-1, 1, 3) * ranges.box
        data.qpos[self._address["box"] :][:7] = (x, y, 0, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        cup_x, cup_y, handle = np.r_[_CUP, _HANDLE] + rng.uniform(-1, 1, 3) * ranges.cup
        pose = (cup_x, cup_y, scene.CUP_HEIGHT / 2, np.cos(handle / 2), 0, 0, np.sin(handle / 2))
        data.qpos[self._address["cup"] :][:7] = pose
        angles = {"flap": rng.uniform(*ranges.flap), "tab": rng.uniform(*ranges.tab)}
        for name, angle in angles.items():
            data.qpos[self._address[name]] = data.plastic[self._plastic[name]] = angle
        self.reached, self.folded = np.zeros(len(_POINTS), bool), np.zeros(2, bool)
        self.failure, self.done = np.array(-1), np.array(False)
        self.start, self.lasting = np.array([x, y, yaw, angles["flap"]]), np.zeros(4)

    # ---- what is where

    def pose(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) m and rotation (3, 3) of `box`, `cup`, `flap` or `tab` in the world."""
        body = self._bodies[name]
        return self.cell.data.xpos[body], self.cell.data.xmat[body].reshape(3, 3)

    def box_pose(self) -> np.ndarray:
        """Where the box stands: x, y (m) and its rotation about the vertical (rad)."""
        position, rotation = self.pose("box")
        return np.array([position[0], position[1], np.arctan2(rotation[1, 0], rotation[0, 0])])

    def angle(self, name: str) -> float:
        """Angle of the crease of `flap` or `tab`, rad."""
        return float(self.cell.data.qpos[self._address[name]])

    def rest_angle(self, name: str) -> float:
        """Angle that the crease of `flap` or `tab` springs back to, rad."""
        return float(self.cell.data.plastic[self._plastic[name]])

    def cup_in_box(self) -> np.ndarray:
        """Middle of the cup in the frame of the box, (3,) m."""
        position, rotation = self.pose("box")
        return np.asarray((self.pose("cup")[0] - position) @ rotation)

    def touching(self) -> dict[str, np.ndarray]:
        """Which arms touch `box`, `cup`, `flap`, `tab`: bool (2,) each; `held`: whose pads both touch the cup."""
        data, model = self.cell.data, self.cell.model
        pairs = data.contact.geom[data.contact.dist < 0.001] if data.ncon else np.empty((0, 2), int)
        pairs = np.concatenate([pairs, pairs[:, ::-1]])
        bodies = model.geom_bodyid[pairs]
        arm = model.body_rootid[bodies[:, :1]] == np.array(self._arms)
        found = {name: np.asarray((arm & (bodies[:, 1:] == body)).any(0)) for name, body in self._bodies.items()}
        pad = pairs[:, :1, None] == self._pads
        found["held"] = (pad & (bodies[:, 1] == self._bodies["cup"])[:, None, None]).any(0).all(-1)
        return found

    def cup_stands_inside(self) -> bool:
        """Whether the cup stands in the box."""
        where = self.cup_in_box()
        inside = bool((np.abs(where[:2]) < (scene.HALF_X, scene.HALF_Y)).all() and where[2] < scene.HEIGHT - 0.02)
        return inside and self.pose("cup")[1][2, 2] > _UPRIGHT

    # ---- ground truth

    def advance(self) -> TaskStatus:
        """Update sub-goals and what has lasted after a control step."""
        seconds = 1 / self.cell.spec.fps
        touching, flap, tip = self.touching(), self.angle("flap"), scene.tab_tip(self.angle("flap"), self.angle("tab"))
        inside, held = self.cup_stands_inside(), bool(touching["held"].any())
        in_slot, beside = self.in_slot(tip), self._is_beside(tip)
        stands = inside and not held
        hands_off = not (touching["flap"] | touching["tab"]).any()
        cup = self.pose("cup")
        self.folded |= np.array([flap < FOLDED, beside])
        conditions = np.array([
            stands and in_slot and flap < CLOSED and hands_off,
            bool(self.folded[0]) and hands_off and not (in_slot and flap < CLOSED),
            beside,
            cup[1][2, 2] < _TIPPED or cup[0][2] < -0.05,
        ])  # fmt: skip
        self.lasting = np.where(conditions & (self.cell.steps > 0), self.lasting + seconds, 0.0)
        closed = bool(self.lasting[0] >= _FREE_SECONDS - 1e-9)
        moved = self.box_pose() - self.start[:3]
        turned = abs((moved[2] + np.pi) % (2 * np.pi) - np.pi)
        pushed = np.hypot(*moved[:2]) > _PUSHED or turned > _TURNED or self.pose("box")[1][2, 2] < 0.9
        loose = self.lasting[1] >= _LOOSE_SECONDS - 1e-9
        was_beside = bool(self.folded[1])
        failures = (
            self.lasting[3] >= _TIPPED_SECONDS - 1e-9,
            loose and not was_beside,
            (loose and was_beside) or self.lasting[2] >= _BESIDE_SECONDS - 1e-9,
            pushed,
        )
        if not self.done and self.failure < 0:
            if closed and not pushed:
                self.done = np.array(True)
            elif any(failures):
                self.failure = np.array(int(np.argmax(failures)))
        lifted = held and cup[0][2] > scene.CUP_HEIGHT / 2 + 0.03
        goals = (touching["cup"].any(), lifted, stands, stands and flap < FOLDED, stands and flap < 0.3,
                 stands and self._near(tip) > 0.8, stands and in_slot, bool(self.done))  # fmt: skip
        if self.failure < 0:
            self.reached |= np.array([bool(goal) for goal in goals])
        self.status = self._status(touching)
        return self.status

    def in_slot(self, tip: np.ndarray) -> bool:
        """Whether a tab with its edge at `tip`, (y, z) m in the box, is in the slot."""
        across = tip[0] + scene.HALF_Y
        return bool(0 < across < self.ranges.slot and tip[1] < scene.HEIGHT - _IN_SLOT)

    def _is_beside(self, tip: np.ndarray) -> bool:
        across = tip[0] + scene.HALF_Y
        return bool(tip[1] < scene.HEIGHT - _BESIDE and not 0 < across < self.ranges.slot)

    def _near(self, tip: np.ndarray) -> float:
        """How near the tab's edge is to the mouth of the slot, in [0, 1]; 0 beside it."""
        if self._is_beside(tip):
            return 0.0
        away = np.hypot(tip[0] + scene.HALF_Y - self.ranges.slot / 2, max(tip[1] - scene.HEIGHT, 0.0))
        return float(1 - np.clip((away - 0.01) / 0.05, 0, 1))

    def _status(self, touching: Mapping[str, np.ndarray]) -> TaskStatus:
        failed = int(self.failure)
        mode = "none" if failed < 0 else self.failure_modes[failed]
        progress = 1.0 if self.done else 0.0 if failed >= 0 else self._progress(touching)
        finished = bool(self.done) or failed >= 0
        return TaskStatus(progress, float(self.reached @ _POINTS), bool(self.done), mode, finished)

    def _progress(self, touching: Mapping[str, np.ndarray]) -> float:
        cup, held = self.pose("cup")[0], bool(touching["held"].any())
        if not self.cup_stands_inside() or held:
            away = min(float(np.linalg.norm(self.cell.grasp_point(side) - cup)) for side in SIDES)
            approach = 0.15 * (1 - np.clip((away - 0.02) / 0.35, 0, 1))
            if not held:
                return float(approach)
            lift = np.clip((cup[2] - scene.CUP_HEIGHT / 2) / 0.06, 0, 1)
            across = np.hypot(*(cup[:2] - self.box_pose()[:2]))
            over = 1 - np.clip((across - 0.02) / 0.25, 0, 1)
            return float(0.2 + 0.03 * lift + 0.1 * over * max(lift, over > 0.9) + 0.05 * self.cup_stands_inside())
        flap, tip = self.angle("flap"), scene.tab_tip(self.angle("flap"), self.angle("tab"))
        if self.in_slot(tip):
            deep = np.clip((scene.HEIGHT - tip[1]) / scene.TAB_LENGTH, 0, 1)
            closed = flap < CLOSED
            free = closed and not (touching["flap"] | touching["tab"]).any()
            return float(0.75 + 0.15 * deep + 0.03 * closed + 0.04 * free)
        fold = 1 - np.clip((flap - 0.3) / (self.start[3] - 0.3), 0, 1)
        return float(0.4 + 0.2 * fold + 0.15 * self._near(tip))

    _FIELDS = ("reached", "failure", "done", "start", "folded", "lasting")

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything that `advance` remembers."""
        return {name: np.array(getattr(self, name)) for name in self._FIELDS}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Undo everything since `get_state`."""
        for name in self._FIELDS:
            setattr(self, name, np.array(state[name]))
        self.status = self._status(self.touching())

    def expert(self) -> ScriptedPolicy:
        """Make the expert; it sees the ground truth."""
        return BoxExpert(self.cell, self)

    def operator(self, kind: str | None, seed: int) -> ScriptedPolicy:
        """Make an imperfect operator: one of `operator_kinds`, or a mixture of them."""
        return BoxOperator(self.cell, self, kind, seed)
