"""CompositionalWorldModel: a dynamics model that imagines and a value model that scores, behind one session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rise_env.dynamics.settings import from_environment, with_settings
from rise_env.errors import CheckpointError, ConfigError, RiseError, check_known, requirement
from rise_env.files import atomic_directory, to_plain, write_json
from rise_env.model_card import Card
from rise_env.pretrained import CONFIG, load_class, local_directory, read_config
from rise_env.protocols import Dynamics, History, Prediction, Value, ValueEstimate
from rise_env.publishing import Published, push_saved
from rise_env.registry import DYNAMICS, VALUES, Registry
from rise_env.tasks import TaskSpec, task_from_section
from rise_env.threads import one_thread_after_fork

__all__ = ["REWARD_SOURCES", "UNCERTAINTIES", "CompositionalWorldModel", "Imagined", "Session", "resolve_device"]

#: Where the uncertainty of a chunk comes from. "spread": disagreement of the value ensemble, mean over the frames, in
#: units of value. "noise": root mean square difference of two predictions from different noise, in latents (in pixels
#: from 0 to 1 where the model has none). "noise_value": mean difference of the values of two such predictions.
#: "dynamics": what the dynamics model itself says.
UNCERTAINTIES = ("spread", "noise", "noise_value", "dynamics")

#: Where the values of imagined frames come from. "value": the value model, looking at them. "dynamics": the dynamics
#: model's own value head, which predicts their values without a picture of them. Recorded frames are scored by the
#: value model in either case.
REWARD_SOURCES = ("value", "dynamics")

one_thread_after_fork()  # of environments, in vectorization_mode "async"

_KIND, _VERSION = "rise-world-model", 2
_PARTS = {"dynamics": DYNAMICS, "value": VALUES}


@dataclass(frozen=True)
class Session:
    """Where B imaginations stand.

    Attributes:
        state: The dynamics model's session state.
        prompts: One instruction each.
        value: float32 (B,), value of the current frame.
        spread: float32 (B,), disagreement of the value ensemble about it.
    """

    state: Any
    prompts: tuple[str, ...]
    value: torch.Tensor
    spread: torch.Tensor


class Imagined:
    """An imagined chunk of B environments; pixels are made when they are asked for.

    Attributes:
        session: Where the imaginations stand after it.
        values: float32 (B, K), value of each imagined frame.
        spread: float32 (B, K), disagreement of the value ensemble.
        uncertainty: float32 (B,); see `UNCERTAINTIES`.
        states: float32 (B, K, D) at the imagined frames, or None: "as commanded".
    """

    def __init__(self, dynamics: Dynamics, session: Session, parts: Sequence[_Piece]) -> None:
        self.session = session
        self.values = torch.cat([part.estimate.value for part in parts])
        self.spread = torch.cat([part.estimate.spread for part in parts])
        self.uncertainty = torch.cat([part.uncertainty for part in parts])
        states = [part.prediction.states for part in parts]
        self.states = None if states[0] is None else torch.cat([part for part in states if part is not None])
        self._dynamics, self._parts = dynamics, parts

    def frames(self, index: Sequence[int]) -> torch.Tensor:
        """Pixels of the imagined frames `index`, which may be negative: uint8 (B, len(index), V, H, W, 3)."""
        count = self.values.shape[1]
        index = [k % count for k in index]
        return torch.cat([part.frames(self._dynamics, index) for part in self._parts])


@dataclass
class _Piece:
    """What one call of the models gave."""

    prediction: Prediction
    estimate: ValueEstimate
    uncertainty: torch.Tensor
    pixels: torch.Tensor | None

    def frames(self, dynamics: Dynamics, index: list[int]) -> torch.Tensor:
        return dynamics.decode(self.prediction, index) if self.pixels is None else self.pixels[:, index]


class CompositionalWorldModel:
    """Dynamics and value as one: open sessions at recorded states, imagine chunks, get frames and their values.

    The world model owns prediction and scoring; the environment owns episodes.

    Args:
        dynamics: Imagines frames.
        value: Scores them.
        spec: Task that both were made for.
        uncertainty: One of `UNCERTAINTIES`. "noise" and "noise_value" imagine every chunk twice; what is imagined does
            not change by that.
        reward_source: One of `REWARD_SOURCES`.
        max_batch: Environments per call of the models, or None for all. Results of batched matrix products depend on
            the size of the batch in their last bits; with 1 they do not depend on it at all.

    Raises:
        ConfigError: If an argument is wrong.

    Example:
        >>> from rise_env.testing import counting_world_model
        >>> model = counting_world_model()
        >>> model.spec.frames_per_chunk
        4
    """

    def __init__(
        self,
        dynamics: Dynamics,
        value: Value,
        spec: TaskSpec,
        *,
        uncertainty: str = "spread",
        reward_source: str = "value",
        max_batch: int | None = None,
    ) -> None:
        check_known("reward_source", reward_source, REWARD_SOURCES)
        check_known("uncertainty", uncertainty, UNCERTAINTIES)
        requirement("world model").at_least(1, max_batch=max_batch)
        self.dynamics, self.value, self.spec = dynamics, value, spec
        self.uncertainty, self.reward_source, self.max_batch = uncertainty, reward_source, max_batch

    @property
    def thread_safe(self) -> bool:
        """Whether several threads may imagine at once: both models say so by an attribute of this name."""
        return all(getattr(part, "thread_safe", False) for part in (self.dynamics, self.value))

    @property
    def device(self) -> torch.device:
        """Where actions are wanted and results lie."""
        return self.dynamics.device

    def with_options(self, *, imagine: Mapping[str, Any] | None = None, **options: Any) -> CompositionalWorldModel:
        """The same models with another `uncertainty`, `reward_source` or `max_batch`; None keeps a setting.

        Args:
            imagine: How the dynamics model imagines, where it should not as its checkpoint says, e.g.
                `{"flow.sigmas": [1, 0.9375, 0.8333, 0.625]}`; see `rise_env.dynamics.settings.SETTINGS`.
            **options: The other settings.

        Raises:
            ConfigError: If a setting is wrong.
        """
        dynamics = with_settings(self.dynamics, imagine or {})
        chosen = {name: getattr(self, name) for name in ("uncertainty", "reward_source", "max_batch")}
        chosen |= {name: value for name, value in options.items() if value is not None}
        return CompositionalWorldModel(dynamics, self.value, self.spec, **chosen)

    # ------------------------------------------------------------------ sessions

    @torch.no_grad()
    def open(self, history: History) -> Session:
        """Start sessions at recorded states."""
        count, prompts = len(history.prompts), tuple(history.prompts)
        parts = []
        for rows in self._slices(count):
            part = History(history.frames[rows], history.states[rows], prompts[rows])
            estimate = self.score_frames(part.frames[:, -1:], part.prompts)
            parts.append(Session(self.dynamics.open(part), prompts[rows], estimate.value[:, 0], estimate.spread[:, 0]))
        return parts[0] if len(parts) == 1 else self._join(parts, count)

    def select(self, session: Session, index: Sequence[int] | torch.Tensor) -> Session:
        """Sessions of some environments."""
        numbers = torch.as_tensor(index, dtype=torch.int64)
        rows, prompts = numbers.to(self.device), tuple(session.prompts[i] for i in numbers.tolist())
        return Session(self.dynamics.select(session.state, rows), prompts, session.value[rows], session.spread[rows])

    def merge(self, session: Session, index: Sequence[int] | torch.Tensor, other: Session) -> Session:
        """Copy of `session` in which the environments `index` are those of `other`."""
        numbers, prompts = torch.as_tensor(index, dtype=torch.int64), list(session.prompts)
        rows = numbers.to(self.device)
        for i, prompt in zip(numbers.tolist(), other.prompts, strict=True):
            prompts[i] = prompt
        return Session(
            self.dynamics.merge(session.state, rows, other.state),
            tuple(prompts),
            session.value.index_copy(0, rows, other.value),
            session.spread.index_copy(0, rows, other.spread),
        )

    def close(self, session: Session) -> None:
        """End sessions."""
        self.dynamics.close(session.state)

    @torch.no_grad()
    def imagine(self, session: Session, actions: torch.Tensor, generators: Sequence[torch.Generator]) -> Imagined:
        """Imagine one chunk and score every frame of it, in one call of the value model.

        Args:
            session: B sessions; not changed.
            actions: float32 (B, chunk, D), absolute joint targets, rad and m.
            generators: One CPU generator per environment.

        Returns:
            The chunk, with the sessions that go on from its end.
        """
        count = len(session.prompts)
        slices, pieces, ends = self._slices(count), [], []
        for rows in slices:
            part = session if len(slices) == 1 else self.select(session, range(rows.start, rows.stop))
            piece, state = self._imagine(part, actions[rows], generators[rows])
            last = piece.estimate.value[:, -1], piece.estimate.spread[:, -1]
            pieces.append(piece)
            ends.append(Session(state, part.prompts, *last))
        return Imagined(self.dynamics, ends[0] if len(ends) == 1 else self._join(ends, count), pieces)

    def value_of_prediction(self, prediction: Prediction, prompts: Sequence[str]) -> ValueEstimate:
        """Values (B, K) of imagined frames, from the reward source."""
        return self._score(prediction, prompts)[0]

    # ------------------------------------------------------------------ the two models

    def _imagine(
        self, session: Session, actions: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[_Piece, Any]:
        twice = self.uncertainty.startswith("noise")
        others = [_offspring(generator) for generator in generators] if twice else []
        prediction, state = self.dynamics.predict(session.state, actions, generators)
        estimate, pixels = self._score(prediction, session.prompts)
        if self.uncertainty == "spread":
            uncertainty = _row_means(estimate.spread)
        elif self.uncertainty == "dynamics":
            if prediction.uncertainty is None:
                raise RiseError(f"{type(self.dynamics).__name__} does not say how uncertain it is: choose another "
                                f"uncertainty than 'dynamics' ({', '.join(UNCERTAINTIES)})")  # fmt: skip
            uncertainty = prediction.uncertainty
        else:
            second, _ = self.dynamics.predict(session.state, actions, others)
            if self.uncertainty == "noise":
                uncertainty = self._disagreement(prediction, second)
            else:
                uncertainty = _row_means((estimate.value - self._score(second, session.prompts)[0].value).abs())
        return _Piece(prediction, estimate, uncertainty, pixels), state

    def _score(self, prediction: Prediction, prompts: Sequence[str]) -> tuple[ValueEstimate, torch.Tensor | None]:
        if self.reward_source == "dynamics":
            if prediction.values is None:
                raise RiseError(
                    f"{type(self.dynamics).__name__} predicts no values: take reward_source='value', or train it with "
                    "dynamics.transformer.value_head=4"
                )
            return prediction.values, None
        if not self.value.reads_latents:
            pixels = self.dynamics.decode(prediction, range(self.spec.frames_per_chunk))
            return self.value.estimate(pixels, prompts), pixels
        if prediction.latents is None:
            raise RiseError(f"the value model reads latents, but {type(self.dynamics).__name__} predicts none")
        estimate, wanted = self.value.estimate(prediction.latents, prompts), self.spec.frames_per_chunk
        if estimate.value.shape[1] != wanted:
            raise RiseError(
                f"{type(self.dynamics).__name__} has {estimate.value.shape[1]} latents for {wanted} frames: "
                "score its pixels, with a value model that does not read latents"
            )
        return estimate, None

    def score_frames(self, frames: torch.Tensor, prompts: Sequence[str]) -> ValueEstimate:
        """Values (B, T) of recorded frames uint8 (B, T, V, H, W, 3), from the value model."""
        return self.value.estimate(self.dynamics.encode(frames) if self.value.reads_latents else frames, prompts)

    def _disagreement(self, ours: Prediction, theirs: Prediction) -> torch.Tensor:
        if ours.latents is not None and theirs.latents is not None:
            difference = ours.latents.float() - theirs.latents.float()
        else:
            index = range(self.spec.frames_per_chunk)
            pair = [self.dynamics.decode(one, index).float() / 255 for one in (ours, theirs)]
            difference = pair[0] - pair[1]
        return _row_means(difference.square()).sqrt()

    def _slices(self, count: int) -> list[slice]:
        size = self.max_batch or count
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]

    def _join(self, parts: Sequence[Session], count: int) -> Session:
        """Sessions one after another. The protocol knows no concatenation: grow the first one, then put the rest in."""
        whole, start = self.select(parts[0], torch.zeros(count, dtype=torch.int64)), 0
        for part in parts:
            whole = self.merge(whole, range(start, start + len(part.prompts)), part)
            start += len(part.prompts)
        return whole

    # ------------------------------------------------------------------ files

    def save_pretrained(self, path: str | Path) -> None:
        """Write a directory: `config.json` and one directory for each part.

        Raises:
            ConfigError: If a part cannot be saved, or could not be loaded again because nobody has registered it.
        """
        parts = {name: _class_name(getattr(self, name), registry) for name, registry in _PARTS.items()}
        content = {"kind": _KIND, "format_version": _VERSION, "task": self.spec, "parts": parts}
        content |= {"uncertainty": self.uncertainty, "reward_source": self.reward_source}
        with atomic_directory(path, CONFIG) as aside:
            for name in _PARTS:
                getattr(self, name).save_pretrained(aside / name)
            write_json(aside / CONFIG, content)

    def push_to_hub(self, repo: str, *, private: bool = False, card: Card | None = None) -> Published:
        """Upload to the Hugging Face Hub, as `save_pretrained` writes it.

        Arguments and errors are as of `rise_env.pretrained.PretrainedMixin.push_to_hub`.
        """
        card = card or Card("world model", to_plain(self.spec))
        return push_saved(self.save_pretrained, repo, card, private=private)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str | torch.device = "cpu", **options: Any
    ) -> CompositionalWorldModel:
        """Load what `save_pretrained` wrote, to imagine with: for training, its parts are loaded on their own.

        Args:
            path: Directory, or repository on the Hugging Face Hub (`owner/name`, `owner/name@revision`).
            device: Where to put the weights; "auto" takes a GPU where there is one.
            **options: As for `with_options`; None takes the checkpoint's. What `imagine` leaves open is looked for in
                `RISE_IMAGINE` (`rise_env.dynamics.settings`).

        Raises:
            CheckpointError: If something is missing, damaged, or does not fit together.
        """
        target = resolve_device(device)
        config = read_config(local_directory(path, "world model", ()), _KIND, _VERSION, _UPGRADES)
        folder = local_directory(path, "world model")
        try:
            spec = task_from_section(config["task"])
            classes = {name: load_class(config["parts"][name], registry) for name, registry in _PARTS.items()}
            kept = {name: config[name] for name in ("uncertainty", "reward_source")}
        except (ConfigError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / CONFIG} is damaged: {error!r}") from error
        for name in _PARTS:
            if not (folder / name).is_dir():
                raise CheckpointError(f"world model {folder} lacks its part {name!r}: {folder / name} is missing")
        parts = {name: classes[name].from_pretrained(folder / name, device=target) for name in _PARTS}
        dynamics = with_settings(
            with_settings(parts["dynamics"], from_environment()), options.pop("imagine", None) or {}
        )
        if hasattr(dynamics, "freeze"):
            dynamics.freeze()
        return cls(dynamics, parts["value"], spec, **kept).with_options(**options)


#: Version 1 called the reward source "judge", or nothing, and named classes by their module.
_UPGRADES: dict[int, Any] = {1: lambda config: {"reward_source": config.get("judge", "value"), **config}}


def _class_name(part: Any, registry: Registry) -> str:
    """What a checkpoint calls the class of a part: its registered name, or "module:Class" within `rise_env`."""
    kind = type(part)
    path = f"{kind.__module__}:{kind.__qualname__}"
    name = registry.name_of(kind) or (path if path.startswith("rise_env.") else None)
    if name is None or not hasattr(part, "save_pretrained") or not hasattr(part, "from_pretrained"):
        raise ConfigError(
            f"{registry.kind} {kind.__name__} cannot be saved. It needs save_pretrained and from_pretrained "
            "(rise_env.pretrained.PretrainedMixin brings them), and a registered name: "
            f"{registry.how_to_register(kind.__name__.lower(), path)}"
        )
    return name


def resolve_device(device: str | torch.device) -> torch.device:
    """Device by name; "auto" is the first GPU where there is one, else the CPU.

    Raises:
        ConfigError: If the name is no device, or the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r}: {error}. Use 'auto', 'cpu', 'cuda' or 'cuda:1'.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r}: there is no CUDA device here. Use device='cpu' or 'auto'.")
    return found


def _offspring(generator: torch.Generator) -> torch.Generator:
    """A generator with other noise, which depends on a generator's state and leaves it as it is."""
    twin = torch.Generator().set_state(generator.get_state())
    seed = int(torch.randint(0, 2**62, (), generator=twin, dtype=torch.int64))
    return torch.Generator().manual_seed(seed ^ 0x5DEECE66D)


def _row_means(values: torch.Tensor) -> torch.Tensor:
    """Mean of each row, computed row by row: its bits do not depend on the number of rows."""
    return torch.stack([row.mean() for row in values])
