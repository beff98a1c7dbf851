"""How a trained model imagines: by argument, option or environment variable, without training."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Any

import gymnasium
import pytest
import torch
from dynamics_world import with_flow

from rise_agents.cli.main import COMMANDS
from rise_agents.cli.options import imagining
from rise_env.bundle import find_bundle, load_bundle
from rise_env.dynamics.settings import VARIABLE, changed, from_environment
from rise_env.errors import ConfigError
from rise_env.provenance import provenance
from rise_env.testing import counting_starts, counting_world_model

FEW = [1.0, 0.9375, 0.8333, 0.625]


@pytest.fixture
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_settings_by_dotted_key_or_nested() -> None:
    config = with_flow(steps=3)
    for settings in ({"flow.sigmas": FEW}, {"flow": {"sigmas": FEW}}):
        few = changed(config, settings)
        assert few.flow.sigmas == tuple(FEW)
        assert (few.flow.steps, few.training, few.transformer) == (3, config.training, config.transformer)
        assert changed(few, {"flow.steps": 7}).flow.denoising_steps == 7
    assert changed(config, {}) == config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"flow.stps": 4}, "Did you mean 'flow.steps'"),
        ({"transformer.width": 64}, "unknown setting of imagination 'transformer.width'.*need training"),
        ({"flow.steps": 0}, "steps is 0"),
        ({"flow.sigmas": [0.5]}, "begin with 1"),
        ({"flow.steps": "many"}, "steps"),
        ("flow.steps=4", "expected a mapping"),
    ],
)
def test_wrong_settings_are_errors(settings: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        changed(with_flow(), settings)


@pytest.mark.usefixtures("no_variable")
def test_every_environment_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """By argument and by variable; the argument goes first, and the variable is noted where results come from."""
    made = {}
    for name, variable, imagine in (
        ("as trained", "", None),
        ("argument", "flow.steps=9", {"flow.sigmas": FEW}),
        ("variable", f"flow.steps=2; flow.sigmas={FEW}", None),
        ("off again", f"flow.sigmas={FEW}", {"flow.steps": 1}),
    ):
        monkeypatch.setenv(VARIABLE, variable)
        envs: Any = gymnasium.make_vec("RISE-BrickSorting-v0", num_envs=1, imagine=imagine).unwrapped
        flow = envs.world_model.dynamics.config.flow
        envs.reset(seed=0)
        seen = envs.step(envs.recorded_actions()[0])[0]["image_head"].tobytes()
        made[name] = (flow.denoising_steps, seen)
        assert provenance().get("imagine", "") == variable
        envs.close()
    assert [steps for steps, _ in made.values()] == [1, 4, 4, 1]
    assert made["off again"][1] == made["as trained"][1] != made["argument"][1] == made["variable"][1]


def test_a_model_object_is_not_changed() -> None:
    model = load_bundle(find_bundle("brick_sorting")).world_model()
    other: Any = model.with_options(imagine={"flow.steps": 5})
    dynamics: Any = model.dynamics
    assert (dynamics.config.flow.steps, other.dynamics.config.flow.steps) == (1, 5)
    assert other.dynamics.transformer is dynamics.transformer  # the weights are shared
    assert torch.equal(other.dynamics.scaler.state_shift, dynamics.scaler.state_shift)


def test_models_without_settings_say_so() -> None:
    with pytest.raises(ConfigError, match=r"flow.steps: FrameCountingDynamics has no such settings.*with_settings"):
        gymnasium.make_vec(
            "RISE-Imagination-v0",
            world_model=counting_world_model(),
            starts=counting_starts(),
            imagine={"flow.steps": 2},
        )


@pytest.mark.usefixtures("no_variable")
def test_an_option_holds_for_its_command_alone() -> None:
    with imagining(Namespace(imagine=["flow.steps=3", f"flow.sigmas={FEW}"])):
        assert from_environment() == {"flow.steps": 3, "flow.sigmas": FEW}
        with imagining(Namespace(imagine=["flow.steps=4"])):
            assert from_environment()["flow.steps"] == 4
        assert from_environment()["flow.steps"] == 3
    assert VARIABLE not in os.environ
    with pytest.raises(ConfigError, match="steps is 0"), imagining(Namespace(imagine=["flow.steps=0"])):
        raise AssertionError
    assert VARIABLE not in os.environ


@pytest.mark.parametrize("command", ["demo", "improve", "compare", "ablate", "evaluate", "bench imagination"])
def test_commands_that_imagine_have_the_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rise_agents.cli.main import main

    assert command.split()[0] in COMMANDS
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert "--imagine KEY=VALUE" in capsys.readouterr().out
