"""The advantage in LeRobot's own pi0.5 pipelines: for its trainer and its evaluation.

LeRobot's pre-processing makes the prompt in a step that knows no advantage. `with_advantage` exchanges that step for
one that does, and keeps the advantage on the way into the pipeline, where LeRobot drops every entry it does not know.
Import this module before such a pipeline is loaded: the import registers the step.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.lerobot_types import TransitionKey
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep
from lerobot.processor import PolicyProcessorPipeline, ProcessorStep, ProcessorStepRegistry, TokenizerProcessorStep
from lerobot.processor.converters import batch_to_transition
from lerobot.utils.constants import OBS_STATE

from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.prompt import STATE_WIDTH, build_prompt, prompt_bin
from rise_env.errors import ConfigError, requirement

__all__ = ["ADVANTAGE", "AdvantagePromptProcessorStep", "batch_with_advantage", "load_processors", "with_advantage"]

#: Batch entry that holds the measured advantage, float (B,), raw (value units).
ADVANTAGE = "advantage"


@ProcessorStepRegistry.register(name="advantage_prompt")
@dataclass
class AdvantagePromptProcessorStep(ProcessorStep):
    """Makes pi0.5's prompt of task, normalised state and advantage, by `prompt.build_prompt`.

    Takes the place of `pi05_prepare_state_tokenizer_processor_step`: after the normaliser, before the tokenizer.

    Attributes:
        codec: `AdvantageCodec.to_dict()`.
        state_width: As in `prompt.build_prompt`.
        absent: What a batch without advantages means: "error" (training), "best" (acting: ask for the best bin) or
            "unconditional".
        task_key: Complementary entry that holds the instructions.
    """

    codec: dict[str, Any] = field(default_factory=lambda: AdvantageCodec().to_dict())
    state_width: int | None = STATE_WIDTH
    absent: str = "error"
    task_key: str = "task"

    def __post_init__(self) -> None:
        self._codec = AdvantageCodec.from_dict(self.codec)
        if self.absent == "unsaid":  # as older files call it
            self.absent = "unconditional"
        requirement("advantage_prompt").one_of(("error", "best", "unconditional"), self, "absent")

    def __call__(self, transition: Any) -> Any:
        """The transition with prompts in place of instructions; the argument is left as it was."""
        state = (transition.get(TransitionKey.OBSERVATION) or {}).get(OBS_STATE)
        complementary = dict(transition.get(TransitionKey.COMPLEMENTARY_DATA) or {})
        tasks = complementary.get(self.task_key)
        if state is None or tasks is None:
            raise ConfigError(f"advantage_prompt: the batch has no {OBS_STATE if state is None else self.task_key!r}")
        tasks = [tasks] if isinstance(tasks, str) else list(tasks)
        states = np.atleast_2d(torch.as_tensor(state).detach().cpu().numpy())
        bins = self._bins(complementary.get(ADVANTAGE), len(tasks))
        counts = len(tasks), len(states), len(bins)
        if len(set(counts)) > 1:
            raise ConfigError("advantage_prompt: {} instructions, {} states and {} advantages".format(*counts))
        complementary[self.task_key] = [
            build_prompt(text, row, prompt_bin(one, self._codec), self.state_width)
            for text, row, one in zip(tasks, states, bins, strict=True)
        ]
        return {**transition, TransitionKey.COMPLEMENTARY_DATA: complementary}

    def _bins(self, advantages: Any, count: int) -> list[int]:
        if advantages is None:
            if self.absent == "error":
                raise ConfigError(
                    f"advantage_prompt: the batch has no {ADVANTAGE!r}. LeRobot drops it on the way into a pipeline "
                    "unless pipeline.to_transition is batch_with_advantage: load it with "
                    "rise_agents.policies.pi05_processor.load_processors. To act, set absent='best'."
                )
            return [self._codec.best_bin if self.absent == "best" else self._codec.unconditional] * count
        values = np.atleast_1d(torch.as_tensor(advantages).detach().cpu().numpy())
        if values.ndim == 2 and values.shape[1] == 1:  # a LeRobot feature of shape (1,)
            values = values[:, 0]
        if values.dtype == np.bool_:
            if self._codec.form != "binary":
                raise ConfigError(
                    f"advantage_prompt: {ADVANTAGE!r} is true or false, which says no bin; give the measured values "
                    "(advantage_continuous), or a codec of the form 'binary'"
                )
            return values.astype(int).tolist()
        return self._codec.encode(values).tolist()

    def get_config(self) -> dict[str, Any]:
        """Plain values, from which the step is made again."""
        return {name: getattr(self, name) for name in ("codec", "state_width", "absent", "task_key")}

    def transform_features(self, features: Any) -> Any:
        """The step changes no features."""
        return features


def batch_with_advantage(batch: dict[str, Any]) -> Any:
    """LeRobot's `batch_to_transition`, which keeps the advantage: that one forwards a fixed list of entries."""
    transition = batch_to_transition(batch)
    if ADVANTAGE in batch:
        complementary = transition[TransitionKey.COMPLEMENTARY_DATA]
        transition[TransitionKey.COMPLEMENTARY_DATA] = {**complementary, ADVANTAGE: batch[ADVANTAGE]}
    return transition


def with_advantage(
    preprocessor: PolicyProcessorPipeline,
    codec: AdvantageCodec | None = None,
    *,
    state_width: int | None = STATE_WIDTH,
    absent: str = "error",
) -> PolicyProcessorPipeline:
    """pi0.5's pre-processing with the advantage in the prompt.

    The tokenizer step cuts long prompts no more: what it would cut off is the advantage.

    Args:
        preprocessor: As LeRobot makes or loads it; left as it is.
        codec: Meaning of the advantages.
        state_width: As in `prompt.build_prompt`.
        absent: As in `AdvantagePromptProcessorStep`.

    Raises:
        ConfigError: If it has no step that makes pi0.5's prompt.
    """
    step = AdvantagePromptProcessorStep((codec or AdvantageCodec()).to_dict(), state_width, absent)
    made = (Pi05PrepareStateTokenizerProcessorStep, AdvantagePromptProcessorStep)
    if not any(isinstance(old, made) for old in preprocessor.steps):
        raise ConfigError(
            "the pre-processing has no step 'pi05_prepare_state_tokenizer_processor_step' to exchange; it has "
            f"{', '.join(type(old).__name__ for old in preprocessor.steps)}. Is it of a pi0.5?"
        )
    steps = []
    for old in preprocessor.steps:
        new = step if isinstance(old, made) else old
        if isinstance(old, TokenizerProcessorStep):
            new = copy.copy(old)
            new.truncation = False
        steps.append(new)
    return dataclasses.replace(preprocessor, steps=steps, to_transition=batch_with_advantage)


def load_processors(
    config: PreTrainedConfig, path: str, **overrides: Any
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """Pre- and post-processing of a LeRobot checkpoint at a path or Hub id, with the way in for the advantage.

    `to_transition` is not saved with a pipeline, and LeRobot's factory sets its own at every load. Overrides are as of
    `lerobot.policies.factory.make_pre_post_processors`, e.g. `preprocessor_overrides`.
    """
    preprocessor, postprocessor = make_pre_post_processors(config, pretrained_path=path, **overrides)
    preprocessor.to_transition = batch_with_advantage
    return preprocessor, postprocessor
