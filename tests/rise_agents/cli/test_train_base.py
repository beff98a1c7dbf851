"""`rise train base`: from nothing to a base policy, with how it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rise_agents.cli.main import main
from rise_agents.pipelines import recording
from rise_agents.pipelines.config import load_base_config
from rise_agents.policies.loading import load_policy
from rise_env.data import open_dataset
from rise_env.errors import ConfigError
from rise_env.tasks import load_task

TINY = ["--preset", "tiny", "--threads", "1"]


def test_a_base_comes_from_nothing_and_says_how_it_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(run: Callable[..., None], work: dict[str, Any], _: int) -> dict[str, str]:
        """In this process, which has started already."""
        for what in work.values():
            run(what, lambda *_: None)
        return {}

    monkeypatch.setattr(recording, "side_by_side", here)
    settings = ["base.recordings=[{policy: expert, episodes: 2, seed: 3}]", "base.steps=3", "base.episodes=2"]
    assert main(["train", "base", *TINY, "--out", str(tmp_path), "--set", *settings]) == 0
    assert open_dataset(tmp_path / "data" / "expert-3", load_task("brick_sorting", "tiny")).num_episodes == 2
    policy = load_policy(tmp_path / "model")
    assert policy.spec.name == "brick_sorting"
    found = json.loads((tmp_path / "base.json").read_text())
    assert [one["seed"] for one in found["details"]] == [500_000, 500_001]
    assert found["steps"] == 3
    assert "git" in found["provenance"]
    assert "failures:" in capsys.readouterr().out
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert main(["train", "base", *TINY, "--out", str(tmp_path), "--set", *settings]) == 0
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before, "what is there is not made again"
    given = ["--data", str(tmp_path / "data" / "expert-3"), "--out", str(tmp_path / "seeing")]
    settings = ["base.steps=2", "base.episodes=1", f"base.encoders={tmp_path}"]
    settings += ["base.settings=['policy.model.network.width=24', policy.model.storage=int8]"]
    assert main(["train", "base", *TINY, *given, "--set", *settings]) == 0
    seeing = load_policy(tmp_path / "seeing" / "model")
    assert seeing.config.network.width == 24
    eyes = {name: value for name, value in policy.state_dict().items() if name.startswith("encoders.")}
    for name, value in eyes.items():  # stored in whole numbers
        assert (value - seeing.state_dict()[name]).abs().max() <= 0.01 * value.abs().max()
    assert eyes


def test_nonsense_is_refused_before_anything_is_recorded() -> None:
    for item, words in (
        ("base.recordings=[]", "nothing to learn from"),
        ("base.recordings=[{policy: base, episodes: 2, seed: 3}]", "no policy 'base'"),
        ("base.steps=0", "steps"),
        ("base.settings=[task.fps=3]", "none of the policy"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_base_config("brick_sorting", "tiny", [item])
