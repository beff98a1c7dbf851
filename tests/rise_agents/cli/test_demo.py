"""The demo, whole but short: few episodes, a policy that knows nothing, the shipped world model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rise_agents.cli import demo
from rise_agents.cli.main import main
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.bundle import find_bundle, load_bundle


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    spec = load_bundle(find_bundle("brick_sorting")).spec
    path = tmp_path_factory.mktemp("policy") / "random"
    FlowPolicy(spec, FlowPolicyConfig(network=network, lags=(6,), steps=1, noise_samples=1)).save_pretrained(path)
    return path


@pytest.mark.timeout(600)
def test_it_records_improves_evaluates_and_reports_and_goes_on_after_an_interruption(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "RECORDINGS", (("base", 4, 70_000), ("expert", 4, 170_000)))
    out, file = tmp_path / "out", tmp_path / "demo.json"
    command = ["demo", "--out", str(out), "--json", str(file), "--policy", str(policy), "--episodes", "2",
               "--minutes", "0.05", "--set", "batch=16", "epochs=1", "cool=0"]  # fmt: skip
    evaluated: list[str] = []
    inner = demo._evaluate

    def stopped(name: str, *rest: object) -> object:
        evaluated.append(name)
        if name == "improved" and len(evaluated) == 2:
            raise KeyboardInterrupt
        return inner(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(demo, "_evaluate", stopped)
    assert main(command) == 130
    assert not file.exists()
    trained = (out / "rise" / "model" / "model.safetensors").read_bytes()
    assert main(command) == 0
    assert (out / "rise" / "model" / "model.safetensors").read_bytes() == trained  # not trained again
    result = json.loads(file.read_text())
    for name in ("base", "improved"):
        assert result[name]["episodes"] == 2
        low, high = result[name]["success_interval"]
        assert low <= result[name]["success_rate"] <= high
    assert result["minutes"] > 0
    report = Path(result["report"])
    assert report.resolve() == Path(capsys.readouterr().out.strip().splitlines()[-1])
    page = report.read_text(encoding="utf-8")
    assert "<table" in page
    assert "imagination" in page
    base = FlowPolicy.from_pretrained(policy).denoiser.write.weight
    improved = FlowPolicy.from_pretrained(out / "rise" / "model").denoiser.write.weight
    assert not torch.equal(base, improved)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_evaluate", inner)
        assert main([*command, "--seed", "1"]) == 2  # another run may not be mixed with this one
    assert np.isfinite(result["base"]["score_mean"])
