"""The advantage in LeRobot's pipelines: it arrives, also after saving and loading, or its absence is an error."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.pi05 import Pi05Policy
from rise_agents.policies.pi05_config import Pi05PolicyConfig, Pi05Sizes
from rise_agents.policies.prompt import build_prompt
from rise_env.errors import ConfigError
from rise_env.tasks import TaskSpec
from tests.rise_agents.policies.prompts import parse_prompt

pytestmark = pytest.mark.slow  # LeRobot and transformers take many seconds to import

Observe = Callable[..., dict[str, torch.Tensor]]
COUNT = 3
TASKS = ["sort_the bricks", "close the box", "sort"]
ADVANTAGES = torch.tensor([1.0, -7.0, 0.01])  # bins 10, 1 and 6 of the codec's default


@pytest.fixture(scope="module")
def policy(wide_spec: TaskSpec, tokenizer: Any) -> Pi05Policy:
    torch.manual_seed(0)
    config = Pi05PolicyConfig(sizes=Pi05Sizes(vocabulary=300), tokens=360, image_size=28, steps=2, relative=False)
    policy = Pi05Policy(wide_spec, config, tokenizer=tokenizer)
    with torch.no_grad():
        for weight in policy.parameters():  # a new action expert lets no attention through its gates
            weight.normal_(std=0.3 if weight.dim() > 1 else 0.1)
    policy.set_range("state", torch.from_numpy(wide_spec.layout.low), torch.from_numpy(wide_spec.layout.high))
    return policy.eval()


@pytest.fixture
def plain(policy: Pi05Policy, tokenizer: Any, tmp_path: Path) -> tuple[Any, Any]:
    """pi0.5's pipelines as LeRobot makes them, with our tokenizer: its own is gated."""
    from lerobot.policies.pi05.processor_pi05 import (
        Pi05PrepareStateTokenizerProcessorStep,
        make_default_policy_processor_steps,
    )
    from lerobot.processor import AbsoluteActionsProcessorStep, RelativeActionsProcessorStep, TokenizerProcessorStep
    from lerobot.processor.factory import make_policy_processor_pipelines

    tokenizer.save_pretrained(tmp_path / "tokenizer")
    statistics = {
        "observation.state": {"q01": policy.state_low, "q99": policy.state_high},
        "action": {"q01": policy.chunk_low, "q99": policy.chunk_high},
    }
    config = policy.network.config
    steps, relative = make_default_policy_processor_steps(config, statistics), RelativeActionsProcessorStep()
    return make_policy_processor_pipelines(
        input_steps=[
            steps.rename_observations,
            steps.add_batch_dim,
            relative,
            steps.normalize,
            Pi05PrepareStateTokenizerProcessorStep(max_state_dim=32),
            TokenizerProcessorStep(
                tokenizer_name=str(tmp_path / "tokenizer"), max_length=360, padding_side="right", padding="max_length"
            ),
            steps.to_device,
        ],
        output_steps=[steps.unnormalize, AbsoluteActionsProcessorStep(relative_step=relative), steps.to_cpu],
    )


@pytest.fixture
def batch(policy: Pi05Policy, observe: Observe) -> dict[str, Any]:
    seen = observe(policy.spec, COUNT)
    images = {
        key: seen[f"image_{camera}"].permute(0, 3, 1, 2).float() / 255 for camera, key in policy.spec.cameras.items()
    }
    return {**images, "observation.state": seen["state"], "task": TASKS, "advantage": ADVANTAGES}


def said(pipeline: Any, batch: dict[str, Any]) -> list[Any]:
    """What the tokens that come out of a pipeline say."""
    from lerobot.processor import TokenizerProcessorStep

    (tokenizer,) = [step.input_tokenizer for step in pipeline.steps if isinstance(step, TokenizerProcessorStep)]
    found = pipeline(copy.deepcopy(batch))
    rows = zip(found["observation.language.tokens"], found["observation.language.attention_mask"], strict=True)
    return [parse_prompt(tokenizer.decode(ids[mask][1:])) for ids, mask in rows]


def test_the_advantage_arrives_in_the_tokens(plain: tuple[Any, Any], batch: dict[str, Any]) -> None:
    from rise_agents.policies.pi05_processor import with_advantage

    pipeline = with_advantage(plain[0])
    found = said(pipeline, batch)
    assert [prompt.bin for prompt in found] == [10, 1, 6]
    assert [prompt.text for prompt in found] == ["sort the bricks", "close the box", "sort"]
    assert [prompt.bin for prompt in said(pipeline, {**batch, "advantage": -ADVANTAGES})] == [1, 10, 5]
    assert [prompt.bin for prompt in said(pipeline, {**batch, "advantage": ADVANTAGES[:, None]})] == [10, 1, 6]


def test_lerobots_own_pipeline_says_none(plain: tuple[Any, Any], batch: dict[str, Any]) -> None:
    assert [prompt.bin for prompt in said(plain[0], batch)] == [None] * 3


def test_the_advantage_survives_saving_and_loading(
    plain: tuple[Any, Any], batch: dict[str, Any], policy: Pi05Policy, tmp_path: Path
) -> None:
    from rise_agents.policies.pi05_processor import load_processors, with_advantage

    codec = AdvantageCodec("percentile", num_bins=4).fit(np.linspace(-1, 1, 101))
    pipeline, post = with_advantage(plain[0], codec, state_width=None), plain[1]
    for one in (pipeline, post):
        one.save_pretrained(tmp_path / "saved")
    names = [
        step.get("registry_name")
        for step in json.loads((tmp_path / "saved/policy_preprocessor.json").read_text())["steps"]
    ]
    assert "advantage_prompt" in names
    assert "pi05_prepare_state_tokenizer_processor_step" not in names
    loaded, loaded_post = load_processors(policy.network.config, str(tmp_path / "saved"))
    assert said(loaded, batch) == said(pipeline, batch)
    assert [prompt.bin for prompt in said(loaded, batch)] == [4, 1, 3]
    assert len(said(loaded, batch)[0].state) == policy.spec.layout.dim
    action = torch.rand((COUNT, 8, 14))
    assert torch.equal(loaded_post(action), post(action))


def test_lerobots_factory_loses_the_advantage_and_that_is_an_error(
    plain: tuple[Any, Any], batch: dict[str, Any], policy: Pi05Policy, tmp_path: Path
) -> None:
    from lerobot.policies.factory import make_pre_post_processors

    from rise_agents.policies.pi05_processor import with_advantage

    with_advantage(plain[0]).save_pretrained(tmp_path / "saved")
    plain[1].save_pretrained(tmp_path / "saved")
    loaded, _ = make_pre_post_processors(policy.network.config, pretrained_path=str(tmp_path / "saved"))
    with pytest.raises(ConfigError, match=r"the batch has no 'advantage'.*load_processors"):
        loaded(batch)


@pytest.mark.parametrize(("absent", "bin"), [("best", 10), ("unconditional", None)])
def test_without_advantages_the_step_says_what_it_was_told(
    plain: tuple[Any, Any], batch: dict[str, Any], absent: str, bin: int | None
) -> None:
    from rise_agents.policies.pi05_processor import with_advantage

    del batch["advantage"]
    assert [prompt.bin for prompt in said(with_advantage(plain[0], absent=absent), batch)] == [bin] * 3
    with pytest.raises(ConfigError, match="the batch has no 'advantage'"):
        with_advantage(plain[0])(batch)


def test_the_pipeline_and_the_policy_write_the_same_prompt(
    plain: tuple[Any, Any], batch: dict[str, Any], policy: Pi05Policy, observe: Observe
) -> None:
    from rise_agents.policies.pi05_processor import with_advantage

    context = policy.context(observe(policy.spec, COUNT), TASKS)
    levels = torch.from_numpy(policy.codec.encode(ADVANTAGES.numpy()))
    prompts = policy.prompts(context, levels)
    found = with_advantage(plain[0])(copy.deepcopy(batch))
    assert found["task"] == prompts
    ids, mask = policy.tokenise(context, levels)
    assert torch.equal(found["observation.language.tokens"], ids)
    assert torch.equal(found["observation.language.attention_mask"], mask)


def test_lerobots_policy_in_our_environments_acts_as_ours(
    plain: tuple[Any, Any], policy: Pi05Policy, observe: Observe
) -> None:
    from rise_agents.policies.lerobot_base import LeRobotBase
    from rise_agents.policies.pi05_processor import with_advantage

    theirs = LeRobotBase(copy.deepcopy(policy.network), with_advantage(plain[0], absent="best"), plain[1], policy.spec)
    seen = observe(policy.spec, 2)
    theirs.reset([3, 4], np.ones(2, bool))
    drawn: list[torch.Tensor] = []
    model = theirs.policy.model
    draw = model.sample_noise
    model.sample_noise = lambda *arguments: drawn.append(draw(*arguments)) or drawn[-1]
    chunks = theirs.act({key: value.numpy() for key, value in seen.items()})
    context = policy.context(seen, [policy.spec.prompt] * 2)
    mine = policy.sample(context, torch.full((2,), policy.codec.best_bin), torch.cat(drawn)).numpy()
    np.testing.assert_allclose(chunks, np.clip(mine, policy.spec.layout.low, policy.spec.layout.high), atol=1e-5)
    assert len(drawn) == 2
    assert np.abs(chunks[0] - chunks[1]).max() > 1e-3


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda text: text.strip(" _\n").strip()),
    state=st.lists(st.floats(-2, 2, width=32), min_size=14, max_size=14),
)
def test_without_an_advantage_the_prompt_is_lerobots(text: str, state: list[float]) -> None:
    from lerobot.lerobot_types import TransitionKey
    from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep

    transition = {
        TransitionKey.OBSERVATION: {"observation.state": torch.tensor([state])},
        TransitionKey.COMPLEMENTARY_DATA: {"task": [text]},
    }
    theirs = Pi05PrepareStateTokenizerProcessorStep()(transition)[TransitionKey.COMPLEMENTARY_DATA]["task"]
    assert theirs == [build_prompt(text, np.array(state, np.float32), None, width=None)]


def test_the_batch_is_left_as_it_was(plain: tuple[Any, Any], batch: dict[str, Any]) -> None:
    from rise_agents.policies.pi05_processor import with_advantage

    before = list(plain[0].steps)
    with_advantage(plain[0])(batch)
    assert batch["task"] == TASKS
    assert torch.equal(batch["advantage"], ADVANTAGES)
    assert plain[0].steps == before
    assert any(getattr(step, "truncation", False) for step in plain[0].steps)


def test_a_single_sample_gets_a_batch_axis(plain: tuple[Any, Any], batch: dict[str, Any]) -> None:
    from rise_agents.policies.pi05_processor import with_advantage

    single = {key: value[0] for key, value in batch.items()}
    (found,) = said(with_advantage(plain[0]), single)
    assert (found.text, found.bin) == ("sort the bricks", 10)


def test_a_long_prompt_is_not_cut(plain: tuple[Any, Any], batch: dict[str, Any]) -> None:
    from rise_agents.policies.pi05_processor import with_advantage

    batch["task"] = ["sort " * 60] * COUNT
    plain[0](copy.deepcopy(batch))  # LeRobot cuts, and says nothing
    with pytest.raises(ValueError, match="truncation"):
        with_advantage(plain[0])(batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"advantage": torch.tensor([True, False, True])}, "true or false, which says no bin"),
        ({"advantage": torch.zeros(2)}, "3 instructions, 3 states and 2 advantages"),
        ({"advantage": torch.tensor([0.0, float("nan"), 0.0])}, "not finite"),
        ({"task": None}, "the batch has no 'task'"),
    ],
)
def test_wrong_batches_are_errors(
    plain: tuple[Any, Any], batch: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    from rise_agents.policies.pi05_processor import with_advantage

    with pytest.raises(ConfigError, match=message):
        with_advantage(plain[0])({**batch, **change})


def test_true_and_false_are_the_bins_of_a_binary_codec(plain: tuple[Any, Any], batch: dict[str, Any]) -> None:
    from rise_agents.policies.pi05_processor import with_advantage

    codec = AdvantageCodec("binary", num_bins=2).fit([0.0, 1.0])
    batch["advantage"] = torch.tensor([True, False, True])
    assert [prompt.bin for prompt in said(with_advantage(plain[0], codec), batch)] == [2, 1, 2]


def test_other_pipelines_and_settings_are_errors(plain: tuple[Any, Any]) -> None:
    from rise_agents.policies.pi05_processor import AdvantagePromptProcessorStep, with_advantage

    with pytest.raises(ConfigError, match="pi05_prepare_state_tokenizer_processor_step"):
        with_advantage(plain[1])
    with pytest.raises(ConfigError, match="absent is 'zero'"):
        AdvantagePromptProcessorStep(absent="zero")


def test_older_files_are_understood() -> None:
    from rise_agents.policies.pi05_processor import AdvantagePromptProcessorStep

    codec = AdvantageCodec("percentile", 3, edges=(0.0, 0.5))
    old = {**codec.to_dict(), "levels": 3}
    del old["num_bins"]
    step = AdvantagePromptProcessorStep(old, absent="unsaid")
    assert step._codec == codec
    assert step.absent == "unconditional"
