"""What will come of a chunk: a critic that learns from recorded episodes where they led.

Imagination shows what a chunk does while it runs. Some mistakes show later: a wrist that is turned wrongly costs the
grasp one chunk on, and an imagined picture that is the mean of all that may come hides it. The critic reads what a
policy's encoders make of the present, and a chunk; it foretells how far the task will have come in the chunk after this
one and in the one after that, and whether the episode will succeed. Episodes are short, so outcomes are learned as they
were: nothing is bootstrapped.

What it is good for is to compare chunks at one state. Two things make it see their differences (lab notebook): angles
are given by their cosines and sines, and of their doubles (a gripper that is turned by half a turn holds the same), and
matched with angles that it reads off the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from rise_agents.policies.base import Context, Policy
from rise_agents.policies.data import RecordedChunks
from rise_env.config import decode
from rise_env.errors import ConfigError, TrainingError, requirement
from rise_env.pretrained import PretrainedMixin
from rise_env.spaces import image_key, lag_key
from rise_env.tasks import JointLayout
from rise_env.value.evaluation import auroc

__all__ = ["OutcomeConfig", "OutcomeCritic", "OutcomeLearner"]

_LOOKED_AT = 128  # recorded states that are encoded at once
_SCORED = 4096  # chunks that are scored at once
_ORDERS = 2  # multiples of an angle whose cosine and sine are taken
_WARMUP, _LR_FLOOR = 50, 0.02  # updates; last learning rate over the peak
_VALUE_WEIGHT = 4.0  # of the squared error of a value beside the cross entropy of success
_HELD_OUT = 0.05  # part of the episodes
#: How far features of one and the same picture may be from those that a critic was taught with, relative to them:
#: encoders that were stored in another precision are within a hundredth, others far beyond.
_SAME_EYES = 0.05


@dataclass(frozen=True)
class OutcomeConfig:
    """Settings of a critic of outcomes.

    Attributes:
        members: Networks whose mean counts.
        updates: Updates of each; more of them learn outcomes by heart.
        batch_size: Recorded chunks per update.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Weight decay.
        dropout: Part of the features, and of the inner units, that is left out in training.
        noise: Deviation of the noise on the features in training, relative to theirs.
        width: Inner units.
        frames: Learn from chunks that begin within so many first frames of an episode only; 0 for all.
        most: Most recorded chunks that are learned from.
        model: Folder of a critic that was taught before (`critic/` of a run), for a policy with the same image encoders
            and scales; "bundle" for that of the bundle. None is taught then, and the other settings do not count.
    """

    members: int = 2
    updates: int = 2000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    dropout: float = 0.3
    noise: float = 0.3
    width: int = 256
    frames: int = 0
    most: int = 131072
    model: str = ""

    def __post_init__(self) -> None:
        require = requirement("settings of the critic of outcomes")
        require.at_least(1, self, "members", "updates", "batch_size", "width", "most")
        require.at_least(0, self, "weight_decay", "noise", "frames")
        require.within("[0, 1)", self, "dropout")
        require.positive(self, "learning_rate")


class OutcomeCritic(PretrainedMixin, nn.Module):
    """Foretells what will come of chunks.

    Args:
        features: Numbers that a policy's encoders make of an observation, F.
        layout: Joints.
        chunk: Control steps of a chunk.
        config: Settings.
    """

    kind = "rise-outcome-critic"
    title: ClassVar[str] = "critic of outcomes"
    probe: torch.Tensor
    feature_mean: torch.Tensor
    feature_std: torch.Tensor
    chunk_mean: torch.Tensor
    chunk_std: torch.Tensor
    taught: torch.Tensor
    _turns: torch.Tensor

    def __init__(self, features: int, layout: JointLayout, chunk: int, config: OutcomeConfig) -> None:
        super().__init__()
        self.config, self._layout, self._chunk = config, layout, chunk
        self._moments = sorted({max(chunk // 2 - 1, 0), chunk - 1})  # when angles are looked at
        radians = np.where(np.array(layout.units) == "deg", np.pi / 180, 1.0)
        orders = np.arange(1, _ORDERS + 1)
        self.register_buffer("_turns", torch.from_numpy(orders[:, None] * radians[layout.angles]).float(), False)
        self._angles = np.flatnonzero(layout.angles)
        numbers = layout.dim * (1 + len(range(min(1, chunk - 1), chunk, 2)))
        angles = 2 * len(self._moments) * self._turns.numel()
        self.members = nn.ModuleList([_Member(features, numbers, angles, config) for _ in range(config.members)])
        self.register_buffer("taught", torch.ones(3, dtype=torch.bool))  # which of the three there were labels for
        for name, size in (("feature", features), ("chunk", numbers)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        self.register_buffer("probe", torch.zeros(features))  # what the encoders make of a certain picture

    @property
    def storage(self) -> str:
        """See `PretrainedMixin`."""
        return "int8"

    def get_config(self) -> dict[str, Any]:
        """See `PretrainedMixin`."""
        return {"features": len(self.probe), "layout": asdict(self._layout), "chunk": self._chunk,
                "outcome": self.config}  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path, device: str | torch.device) -> Self:
        """See `PretrainedMixin`."""
        del folder, device
        layout = decode(JointLayout, config["layout"], "key 'layout'")
        return cls(int(config["features"]), layout, int(config["chunk"]),
                   decode(OutcomeConfig, config["outcome"], "key 'outcome'"))  # fmt: skip

    def remember_eyes(self, policy: Policy) -> None:
        """Keep what a policy makes of a certain picture, for `check_eyes`."""
        self.probe.copy_(_probe(policy))

    @torch.no_grad()
    def check_eyes(self, policy: Policy) -> None:
        """Compare what a policy makes of a certain picture with what it was when the critic was taught.

        Raises:
            ConfigError: If the policy sees with other encoders or scales.
        """
        found = _probe(policy)
        if found.shape != self.probe.shape or (found - self.probe).norm() > _SAME_EYES * self.probe.norm():
            raise ConfigError(
                "the critic of outcomes (outcome.model) was taught with other image encoders or scales than this "
                "policy's: it takes the policy that it was taught with, or what was improved from that with "
                "trainable=action_expert; leave outcome.model out to teach another one"
            )

    @torch.no_grad()
    def judge(self, policy: Policy, context: Context, candidates: torch.Tensor) -> np.ndarray:
        """What it expects of candidates (N, G, chunk, D) where N contexts of the policy were seen, (N, G)."""
        count = candidates.shape[1]
        features, states = (one.repeat_interleave(count, 0) for one in _read(policy, context))
        return self.expected(features, states, candidates.flatten(0, 1).cpu()).reshape(candidates.shape[:2])

    def fit_normalisation(self, features: torch.Tensor, states: torch.Tensor, chunks: torch.Tensor) -> None:
        """Learn means and deviations of recorded features (n, F) and of chunks (n, chunk, D) from states (n, D)."""
        for name, found in (("feature", features.float()), ("chunk", self._motion(states, chunks))):
            getattr(self, f"{name}_mean").copy_(found.mean(0))
            getattr(self, f"{name}_std").copy_(found.std(0, correction=0) + 1e-3)

    def forward(self, features: torch.Tensor, states: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        """What every member foretells of chunks (n, chunk, D) from joint states (n, D), with features (n, F).

        States and chunks are in the units of the layout. Float (members, n, 3): mean value in the chunk after and in
        the one after that, and the logit of success.
        """
        return torch.stack([self.member(k, features, states, chunks) for k in range(len(self.members))])

    def member(
        self, number: int, features: torch.Tensor, states: torch.Tensor, chunks: torch.Tensor, noise: float = 0.0
    ) -> torch.Tensor:
        """The same of one member, (n, 3), with so much noise on the features."""
        seen = (features.float() - self.feature_mean) / self.feature_std
        seen = seen + noise * torch.randn(seen.shape).to(seen) if noise else seen
        motion = (self._motion(states, chunks) - self.chunk_mean) / self.chunk_std
        angles = chunks[:, self._moments][:, :, self._angles]
        turned = angles[:, :, None] * self._turns  # n, moments, orders, angles
        harmonics = torch.stack([turned.cos(), turned.sin()], dim=-1)
        found: torch.Tensor = self.members[number](seen, motion, harmonics)
        return found

    @torch.no_grad()
    def expected(self, features: torch.Tensor, states: torch.Tensor, chunks: torch.Tensor) -> np.ndarray:
        """How well chunks will do, float64 (n,) in [0, 1].

        The mean of both values and of the probability of success, as far as there were labels to learn them from.
        """
        parts = []
        for first in range(0, len(chunks), _SCORED):
            rows = slice(first, first + _SCORED)
            found = self(features[rows], states[rows], chunks[rows])
            told = torch.cat([found[..., :2].clamp(0, 1), found[..., 2:].sigmoid()], dim=-1)
            parts.append(told[..., self.taught].mean(-1).mean(0))
        return torch.cat(parts).double().numpy()

    def _motion(self, states: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        """States, and every second target relative to them."""
        moved = (chunks - states[:, None])[:, min(1, chunks.shape[1] - 1) :: 2]
        return torch.cat([states, moved.flatten(1)], dim=1)


class _Member(nn.Module):
    def __init__(self, features: int, numbers: int, angles: int, config: OutcomeConfig) -> None:
        super().__init__()
        width, drop = config.width, config.dropout
        self.see = nn.Sequential(
            nn.Dropout(drop), nn.Linear(features, width), nn.SiLU(),
            nn.Dropout(drop), nn.Linear(width, width), nn.SiLU(),
        )  # fmt: skip
        self.act = nn.Sequential(nn.Linear(numbers + angles, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.modulate = nn.Linear(width, 2 * width)
        #: Twice: an angle may be wanted in two ways, e.g. before and after the grasp.
        self.wanted = nn.Linear(width, 2 * angles)
        self.tell = nn.Sequential(
            nn.Linear(3 * width + angles, 2 * width), nn.SiLU(), nn.Dropout(drop),
            nn.Linear(2 * width, 2 * width), nn.SiLU(), nn.Dropout(drop), nn.Linear(2 * width, 3),
        )  # fmt: skip

    def forward(self, features: torch.Tensor, motion: torch.Tensor, harmonics: torch.Tensor) -> torch.Tensor:
        seen = self.see(features)
        done = self.act(torch.cat([motion, harmonics.flatten(1)], dim=1))
        gain, shift = self.modulate(seen).chunk(2, dim=1)
        wanted = self.wanted(seen).unflatten(1, (2, *harmonics.shape[1:]))
        matches = (wanted * harmonics[:, None]).sum(-1).flatten(1)  # cosines of what is between them
        told: torch.Tensor = self.tell(torch.cat([seen, done, done * gain + shift, matches], dim=1))
        return told


class OutcomeLearner:
    """A critic and the recorded chunks that it learns from.

    Args:
        policy: Its encoders, as they are now, give the critic its features.
        recorded: Recorded chunks, with outcomes.
        config: Settings.
        seed: Seed of everything random.

    Attributes:
        critic: What is trained.
        num_encoded: Recorded states that were looked at so far.
        num_updates: Updates so far.

    Raises:
        ConfigError: If no episode says whether it succeeded, or all ended the same way.
    """

    def __init__(self, policy: Policy, recorded: RecordedChunks, config: OutcomeConfig, seed: int) -> None:
        self._policy, self._recorded, self.config, self._seed = policy, recorded, config, seed
        windows, dataset = recorded.windows, recorded.dataset
        rows = np.arange(len(windows)) if not config.frames else np.flatnonzero(windows.frame < config.frames)
        rng = np.random.default_rng([seed, 0x0C])
        self._rows = np.sort(rng.permutation(rows)[: config.most])
        index = windows.index[self._rows]
        owner = dataset.episode_of(index)
        self._success = torch.from_numpy(np.asarray(dataset.success, np.float32)[owner])
        known = np.unique(self._success[~self._success.isnan()].numpy())
        if len(known) < 2:
            raise ConfigError(
                f"{dataset.name}: a critic of outcomes needs episodes that succeeded and episodes that failed, and "
                f"{'none says how it ended' if not len(known) else 'all that say so ended alike'}"
            )
        self._values = torch.full((len(index), 2), torch.nan)
        if recorded.values is not None:
            ends, length = dataset.starts[owner] + dataset.lengths[owner] - 1, recorded.spec.chunk
            for place in range(2):
                ahead = index[:, None] + (place + 1) * length + np.arange(length)
                mean = np.asarray(recorded.values, np.float32)[np.minimum(ahead, ends[:, None])].mean(1)
                self._values[:, place] = torch.from_numpy(mean)
        self._taught = torch.cat([~self._values.isnan().all(0), torch.ones(1, dtype=torch.bool)])
        held_out = rng.random(dataset.num_episodes) < _HELD_OUT
        self._train, self._held_out = np.flatnonzero(~held_out[owner]), np.flatnonzero(held_out[owner])
        self._chunks, self._states, self._features = (torch.zeros(0) for _ in range(3))
        self.num_encoded = self.num_updates = 0
        self._make()

    def _make(self) -> None:
        probe = self._encode(self._rows[:1])[0]
        spec = self._recorded.spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self.critic = OutcomeCritic(probe.shape[1], spec.layout, spec.chunk, self.config)
        self.critic.taught.copy_(self._taught)
        self.critic.remember_eyes(self._policy)
        rate, decay = self.config.learning_rate, self.config.weight_decay
        self._optimiser = torch.optim.AdamW(self.critic.parameters(), rate, weight_decay=decay)
        count = len(self._rows)
        self._features = torch.zeros((count, probe.shape[1]), dtype=torch.float16)
        self._states = torch.zeros((count, spec.layout.dim))
        self._chunks = torch.zeros((count, spec.chunk, spec.layout.dim))

    @property
    def num_states(self) -> int:
        """Recorded states that there are to look at."""
        return len(self._rows)

    @property
    def finished(self) -> bool:
        """Whether all updates are done."""
        return self.num_updates >= self.config.updates

    def look(self) -> None:
        """Encode the next recorded states."""
        rows = slice(self.num_encoded, min(self.num_encoded + _LOOKED_AT, len(self._rows)))
        features, states, chunks = self._encode(self._rows[rows])
        self._features[rows], self._states[rows], self._chunks[rows] = features.half(), states, chunks
        self.num_encoded = rows.stop
        if self.num_encoded == len(self._rows) and not self.num_updates:
            some = np.random.default_rng([self._seed, 1]).permutation(self._train)[:16384]
            self.critic.fit_normalisation(self._features[some], self._states[some], self._chunks[some])

    def update(self) -> float:
        """One update of every member, each on chunks of its own; returns the mean loss.

        Raises:
            TrainingError: If the loss is not finite.
        """
        config, number = self.config, self.num_updates
        rng = np.random.default_rng([self._seed, number, 2])
        rate = max(_LR_FLOOR, 1 - number / config.updates) * min(1.0, (number + 1) / _WARMUP)
        for group in self._optimiser.param_groups:
            group["lr"] = config.learning_rate * rate
        self.critic.train()
        with torch.random.fork_rng(devices=[]):  # of dropout and noise
            torch.manual_seed(int(rng.integers(2**62)))
            losses = [self._loss(k, rng.choice(self._train, config.batch_size)) for k in range(config.members)]
        loss = torch.stack(losses).sum()
        if not torch.isfinite(loss):
            raise TrainingError(f"critic of outcomes, update {number}: the loss is {loss.item()}")
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        self.critic.eval()
        self.num_updates += 1
        return float(loss.detach()) / config.members

    def held_out_auroc(self) -> float | None:
        """Probability that the chunk of a held-out success is said to do better than one of a failure, frame by frame.

        None where no episode is held out, or all of them ended alike.
        """
        rows = self._held_out[~self._success[self._held_out].isnan().numpy()]
        if not len(rows):
            return None
        expected = self.critic.expected(self._features[rows], self._states[rows], self._chunks[rows])
        return auroc(expected, self._success[rows].numpy() > 0.5)

    def state_dict(self) -> dict[str, Any]:
        """Critic, optimiser, and how far it has come; features are left out."""
        models = {"critic": self.critic.state_dict(), "optimiser": self._optimiser.state_dict()}
        return {**models, "num_updates": self.num_updates, "num_encoded": self.num_encoded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; where updates are left, what was looked at is looked at again."""
        self.critic.load_state_dict(state["critic"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.num_updates, encoded = int(state["num_updates"]), int(state["num_encoded"])
        self.critic.eval()
        if self.finished:
            self.num_encoded = encoded
            return
        with tqdm(total=encoded, desc="looking at recorded states", unit=" states", disable=None) as bar:
            while self.num_encoded < encoded:
                before = self.num_encoded
                self.look()
                bar.update(self.num_encoded - before)

    def _loss(self, member: int, rows: np.ndarray) -> torch.Tensor:
        told = self.critic.member(
            member, self._features[rows], self._states[rows], self._chunks[rows], self.config.noise
        )
        success, values = self._success[rows], self._values[rows]
        known, valued = ~success.isnan(), ~values.isnan()
        loss = functional.binary_cross_entropy_with_logits(told[known, 2], success[known], reduction="sum")
        return (loss + _VALUE_WEIGHT * (told[:, :2] - values)[valued].square().sum() / 2) / len(rows)

    @torch.no_grad()
    def _encode(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch = self._recorded.batch(rows, self._policy.device)
        context = self._policy.context(batch.observations, batch.prompts)
        return *_read(self._policy, context), batch.chunks.cpu()


def _read(policy: Policy, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, F) and joint states (n, D) of what a policy saw."""
    best = torch.full((len(context),), policy.codec.best_bin, device=policy.device)
    return policy.features_of(context, best).float().cpu(), context.state.float().cpu()


@torch.no_grad()
def _probe(policy: Policy) -> torch.Tensor:
    """Features (F,) of a picture that is always the same."""
    spec, rng = policy.spec, np.random.default_rng(0x0C)
    picture = {image_key(camera): rng.integers(256, size=(1, *spec.image_size, 3), dtype=np.uint8)
               for camera in spec.cameras}  # fmt: skip
    seen = picture | {"state": (0.5 * (spec.layout.low + spec.layout.high)).astype(np.float32)[None]}
    observations = {lag_key(key, lag): one for key, one in seen.items() for lag in (0, *policy.lags)}
    return _read(policy, policy.context_of(observations))[0][0]
