"""A trained policy in the work cell, as the recorder of scripted ones drives it: one control step at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from rise_agents.algorithms.best_of_n import history_lags
from rise_agents.evaluation.audit import audit
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_env.acting import ObservationHistory
from rise_env.spaces import image_key
from rise_env.world_model import CompositionalWorldModel
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import load_cell
from rise_robot.cell.oracle import Leader, OracleVectorEnv
from rise_robot.cell.render import CellRenderer
from rise_robot.cell.scripted import ScriptedPolicy

__all__ = ["PolicyInCell", "audit_policy", "led_by"]

_TOGETHER = 8  # states at once


class PolicyInCell(ScriptedPolicy):
    """Looks at the cell at every control step and asks the policy for a chunk whenever the last one is used up.

    Args:
        cell: The cell.
        renderer: Renderer of its cameras.
        policy: Policy; sees what the cameras see, not the ground truth.
        name: Name for the records.
        seed: Seed of its noise, together with the episode.
        advantage_bin: As in `PolicyActor`.
        guidance: As in `PolicyActor`.
    """

    def __init__(
        self,
        cell: WorkCell,
        renderer: CellRenderer,
        policy: Policy,
        name: str,
        seed: int,
        advantage_bin: int | None = None,
        guidance: float | None = None,
    ) -> None:
        self.name = name
        self._cell, self._renderer, self._seed = cell, renderer, seed
        self._actor, self._history = PolicyActor(policy, advantage_bin, guidance), ObservationHistory(policy.lags)
        self._queue: list[np.ndarray] = []

    def reset(self) -> None:
        """Forget the episode before."""
        self._queue = []
        self._history.reset()
        self._actor.reset([(self._seed * 1_000_003 + self._cell.episode_key) % 2**62], np.ones(1, bool))

    def plan(self, horizon: int) -> np.ndarray:
        """The next `horizon` targets of the present chunk; the last one is repeated where it ends."""
        spec = self._cell.spec
        images = self._renderer.render(list(spec.cameras), spec.image_size)
        now = {image_key(camera): image[None] for camera, image in zip(spec.cameras, images, strict=True)}
        self._history.push({**now, "state": self._cell.state()[None]})
        if not self._queue:
            self._queue = list(self._actor.act(self._history.observe())[0][: spec.execute].astype(float))
        chosen = self._queue[:horizon]
        chosen += [chosen[-1]] * (horizon - len(chosen))
        self._queue = self._queue[1:]
        return np.stack(chosen)


def led_by(policy: Policy, guidance: float | None = None) -> Leader:
    """States that a policy gets to itself: a leader for `OracleVectorEnv`."""

    def lead(cell: WorkCell, renderer: CellRenderer) -> ScriptedPolicy:
        return PolicyInCell(cell, renderer, policy, "policy", seed=0, guidance=guidance)

    return lead


def audit_policy(
    policy: Policy,
    world_model: CompositionalWorldModel,
    *,
    states: int,
    group: int,
    seed: int,
    task: str = "brick_sorting",
    preset: str = "small",
    leader: Policy | None = None,
    guidance: float | None = None,
    advantage_bin: int | None = None,
) -> dict[str, Any]:
    """`audit` of a policy at states that it gets to itself.

    Args:
        policy: Proposes.
        world_model: Imagines.
        states: Number of states.
        group: Proposals per state.
        seed: Seed of states and noise.
        task: Task of the cell.
        preset: Its preset.
        leader: Policy that leads to the states, for audits of several policies at the same ones; `policy` when None.
        guidance: Classifier-free guidance of proposals and leader; the policies' own when None.
        advantage_bin: Advantage bin that is proposed for; the best when None. The leader is asked for the best.
    """
    actor = PolicyActor(policy, advantage_bin, guidance, noise_scale=1.0)
    together = min(states, _TOGETHER)
    envs = OracleVectorEnv(
        *load_cell(task, preset), together * group, (led_by(leader or policy, guidance),),
        observation_lags=history_lags(world_model.spec), max_chunks=1,
    )  # fmt: skip
    try:
        return audit(actor, world_model, envs, rounds=-(-states // together), num_candidates=group, seed=seed)
    finally:
        envs.close()
